"""The tables of a real model: perplexity by position, drawn samples, kept prompts, the curve and
the pages that are made of records."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_benchmarks import write_benchmarks
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from reattention_eval import attach
from reattention_eval.benchmarks import find_benchmark
from reattention_eval.cli.app import app
from reattention_eval.errors import ConfigError, DataError
from reattention_eval.harness import prompt_files, selected, standalone
from reattention_eval.harness.compose import plan_jobs
from reattention_eval.prompts import prepare_prompt
from reattention_eval.report.curve import curve_points
from reattention_eval.report.predictions import Predicted
from reattention_eval.report.run import Cell, read_run
from reattention_eval.report.selected import read_selected

REATTENTION = dict(
    type="reattention", global_size=8, local_size=64, span_size=8, top_k=2, max_spans=4,
    chunk_size=32,
)  # fmt: skip
METHODS = [dict(type="full", chunk_size=32), REATTENTION]


@pytest.fixture(scope="module")
def run(checkpoint: Path, haystack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Perplexity and needles, without OpenCompass, with kept prompts."""
    folder = tmp_path_factory.mktemp("real")
    book = dict(benchmark="perplexity", lengths=[1500], points=3, tokens=8, haystack=str(haystack))
    needles = dict(
        benchmark="needle", style="many_depths", lengths=[500, 900], depths=[0, 50], repeats=1,
        haystack=str(haystack), max_out_len=4,
    )  # fmt: skip
    (folder / "plans.py").write_text(f"plans = {[book, needles]!r}\n")
    (folder / "methods.py").write_text(f"methods = {METHODS!r}\n")
    words = [
        "--model", str(checkpoint), "--methods", str(folder / "methods.py"), "--plans",
        str(folder / "plans.py"), "--work-dir", str(folder / "work"), "--prompts",
        str(folder / "prompts"),
    ]  # fmt: skip
    assert standalone.main([*words, "--only-prompts"]) == 0
    assert not (folder / "work").exists()
    made = {path: path.stat().st_mtime_ns for path in (folder / "prompts").glob("*.json")}
    assert len(made) == 3
    assert standalone.main(words) == 0
    assert made == {p: p.stat().st_mtime_ns for p in (folder / "prompts").glob("*.json")}
    return folder / "work"


def test_perplexity_is_what_the_model_says_of_the_next_tokens(
    run: Path, checkpoint: Path, haystack: Path
) -> None:
    rows = find_benchmark("perplexity").rows(
        "by_position", str(checkpoint), length=1500, points=3, tokens=8, haystack=str(haystack)
    )
    assert [row["position"] for row in rows] == [1500, 1191]
    text = haystack.read_text()
    assert all(text.startswith(row["prompt"] + row["continuation"]) for row in rows)
    (path,) = run.glob("results/*full*/perplexity-by_position-1500-*.json")
    result = json.loads(path.read_text())
    records = next(run.glob("records/*full*/perplexity-*.jsonl")).read_text().splitlines()
    # the second place is a beginning of the first: only its last chunk is read again
    assert [json.loads(line)["reused_tokens"] > 1100 for line in records] == [False, True]
    (manifest,) = run.glob("records/*full*/perplexity-*.manifest.json")
    dtype = json.loads(manifest.read_text())["model"]["dtype"]  # float32 on many processors
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=getattr(torch, dtype), attn_implementation="eager"
    )
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    for row, detail in zip(rows, result["details"], strict=True):
        before = tokenizer(row["prompt"])["input_ids"]
        ids = tokenizer(row["prompt"] + row["continuation"])["input_ids"]
        assert ids[: len(before)] == before and detail["n_tokens"] == len(before)
        assert 0 <= row["position"] - len(ids) < 40
        with torch.no_grad():
            logits = model.float()(torch.tensor([ids])).logits[0, len(before) - 1 : -1]
        wanted = torch.tensor(ids[len(before) :])
        truth = torch.nn.functional.cross_entropy(logits, wanted).item()
        assert detail["answer_nll"] == pytest.approx(truth, abs=0.02)


def test_the_curve_and_the_answers_come_from_the_files(run: Path, tmp_path: Path) -> None:
    cli = CliRunner()
    done = cli.invoke(app, ["curve", str(run), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "curve.png").stat().st_size > 10_000
    lines = list(csv.DictReader((tmp_path / "curve.csv").open()))
    assert {(line["method"], line["length"]) for line in lines if "found" in line["panel"]} == {
        (method, length) for method in ("full", "reattention 104") for length in ("500", "900")
    }
    (path,) = run.glob("results/*full*/perplexity-*.json")
    wanted = json.loads(path.read_text())["perplexity"]
    book = [x for x in lines if x["panel"].startswith("Perplexity") and x["method"] == "full"]
    assert [(x["length"], x["n"]) for x in book] == [("2048", "2")]  # both places in one doubling
    assert float(book[0]["value"]) == pytest.approx(wanted, rel=1e-4)
    done = cli.invoke(app, ["answers", str(run), "--out", str(tmp_path / "answers.md")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "answers.md").read_text()
    assert page.count("## needle-many_depths") == 2 and "| reattention 104 | " in page
    done = cli.invoke(app, ["curve", str(tmp_path), "--out", str(tmp_path)])
    assert done.exit_code == 2 and "holds no run of opencompass" in done.output


def test_a_panel_of_ruler_is_about_one_task_that_goes_on_past_the_window() -> None:
    def cell(model: str, task: str, length: int, score: float) -> Any:
        facts = {"benchmark": "ruler", "task": task, "group": "niah", "length": length}
        about = {"name": "m", "trained_window": 64}
        manifest = {"dataset": facts, "method": {"name": model}, "model": about}
        result = {"score": score, "n": 1, "details": [{"score": score}]}
        return Cell(model, f"ruler-{task}-{length}", Predicted(1), result, manifest, {})

    tasks = {"vt": (32, 128, 256), "niah_multikey_1": (32, 128, 256), "cwe": (16, 32, 128)}
    cells = [cell("full", task, n, n / 4) for task, lengths in tasks.items() for n in lengths]
    cells += [cell("quest", "vt", 128, 20.0)]
    found = [(p.panel, p.method, p.length, p.value) for p in curve_points(cells)]
    among, tracing = (
        f"RULER, {x}: score" for x in ("niah_multikey_1 (a needle among needles)", "vt (tracing)")
    )
    assert found == [
        *((among, "full", n, n / 4) for n in (32, 128, 256)),
        *((tracing, "full", n, n / 4) for n in (32, 128, 256)),
        (tracing, "quest", 128, 20.0),
    ]
    few = [x for x in cells if "-256" not in x.dataset]  # one length past it: all that have it
    assert len({p.panel for p in curve_points(few)}) == 3


def test_selected_positions_of_a_failing_sample(
    run: Path, checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    run = tmp_path / "run"
    asked = [str(run), "--model", str(checkpoint), "--dataset", "needle-many_depths-900"]
    assert selected.main([*asked, "--index", "1"]) == 0
    (sample,) = read_selected(run)
    (cell,) = [
        c for c in read_run(run)
        if c.manifest["method"]["name"] == "reattention" and "-900-" in c.dataset
    ]  # fmt: skip
    record, detail, n = cell.records[1], cell.details[1], sample.n_tokens
    assert n == record["n_tokens"] and sample.last_chunk == (n - 1) % 32 + 1
    assert (sample.reference, sample.prediction) == (detail["reference"], record["prediction"])
    assert sample.again == sample.prediction and list(sample.others) == ["full"]
    # the run kept what the last chunk of this sample attended to
    assert [[p for ends in view for p in ends] for view in sample.layers.values()] == record[
        "attended"
    ]
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    row = selected.rows_of(cell, str(checkpoint))[1]
    prompt = prepare_prompt(
        tokenizer, row["prompt"], chat_template=True, answer_prefix=row.get("answer_prefix") or ""
    ).input_ids
    assert len(prompt) == n
    (place,) = sample.answers
    assert str(row["reference"]) in tokenizer.decode(prompt[slice(*place)])
    assert "".join(step["right"] for step in sample.steps) == row["continuation"]
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
    with attach(model, REATTENTION) as session:
        logits = session.prefill(torch.tensor([prompt]))
        for step, token in zip(
            sample.steps, tokenizer(row["continuation"])["input_ids"], strict=True
        ):
            assert step["chosen"] == tokenizer.decode([int(logits.argmax())])
            logits = session.decode(torch.tensor([[token]]))
    assert sample.steps[0]["reached"] == len(sample.reached)

    done = CliRunner().invoke(app, ["curve", str(run), "--out", str(tmp_path / "curve")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "curve" / "selected.md").read_text()
    (picture,) = (tmp_path / "curve").glob("selected-*.png")
    assert f"]({picture.name})" in page and picture.stat().st_size > 10_000
    assert f"in {len(sample.reached)} of {len(sample.layers)} layers" in page
    (file,) = (run / "selected").glob("*/*.json")
    file.write_text(file.read_text().replace('"steps"', '"step"'))
    with pytest.raises(DataError, match="is damaged"):
        read_selected(run)

    assert selected.main([*asked[:3], "--dataset", "no such"]) == 1
    path = next(run.glob(f"records/{cell.model}/{cell.dataset}.jsonl"))
    path.write_text(path.read_text().replace(record["prompt_sha256"], "0" * 64))
    with pytest.raises(ConfigError, match="another prompt than in the run"):
        selected.main([*asked, "--index", "1"])


@pytest.mark.parametrize("last", [dict(last_tokens=48), dict(last_tokens="document")], ids=str)
def test_selected_positions_where_the_last_tokens_choose_alone(
    checkpoint: Path, haystack: Path, tmp_path: Path, last: dict[str, Any]
) -> None:
    plan = dict(
        benchmark="needle", style="many_depths", lengths=[900], depths=[0], repeats=1,
        haystack=str(haystack), max_out_len=4,
    )  # fmt: skip
    (tmp_path / "plan.py").write_text(f"plan = {plan!r}\n")
    methods = [REATTENTION, dict(REATTENTION, **last)]
    (tmp_path / "methods.py").write_text(f"methods = {methods!r}\n")
    words = ["--model", str(checkpoint), "--methods", str(tmp_path / "methods.py")]
    words += ["--plans", str(tmp_path / "plan.py"), "--work-dir", str(tmp_path / "run")]
    assert standalone.main(words) == 0
    asked = [str(tmp_path / "run"), "--model", str(checkpoint), "--index", "0", "--most", "2"]
    assert selected.main(asked) == 0
    found = {sample.method: sample for sample in read_selected(tmp_path / "run")}
    sample = found.pop(f"reattention 104 (last_tokens={last['last_tokens']})")
    assert list(found) == ["reattention 104"] and list(sample.others) == ["reattention 104"]
    (cell,) = [
        c for c in read_run(tmp_path / "run") if c.manifest["method"]["settings"].get("last_tokens")
    ]
    record = cell.records[0]
    before = (
        record["document_tokens"] if last["last_tokens"] == "document" else sample.n_tokens - 48
    )
    assert 0 < before < sample.n_tokens
    assert sample.last_chunk == (sample.n_tokens - before - 1) % 32 + 1
    assert [[p for ends in view for p in ends] for view in sample.layers.values()] == record[
        "attended"
    ]


def test_a_failing_sample_that_another_method_got_right_comes_first() -> None:
    def cell(method: str, scores: list[float], name: str = "m") -> Cell:
        facts = {"benchmark": "ruler", "task": "vt", "length": 64, "n": len(scores)}
        manifest = {"dataset": facts, "method": {"name": method}, "model": {"name": name}}
        result = {"score": 1.0, "details": [{"score": score} for score in scores]}
        records = {i: {"prediction": f"{method} {i}"} for i in range(len(scores))}
        return Cell(f"{name}-{method}", "ruler-vt", Predicted(1), result, manifest, records)

    own, full = cell("reattention", [100.0, 0.0, 0.0, 0.0]), cell("full", [0.0, 0.0, 100.0, 0.0])
    (found,) = selected.failing([own, full, cell("full", [100.0] * 4, "n")], "reattention", "ruler")
    assert found.row.index == 2
    assert found.others == {"full": {"prediction": "full 2", "score": 100.0}}
    (alone,) = selected.failing([own], "reattention", "")
    assert (alone.row.index, alone.others) == (1, {})
    assert not list(selected.failing([full], "reattention", ""))
    own.result["details"][1]["prediction"] = "of an earlier answer"
    with pytest.raises(ConfigError, match="m-reattention on ruler-vt: 1 of 4 samples were scored"):
        list(selected.failing([own, full], "reattention", ""))
    assert next(selected.failing([full, own], "full", "")).others == {}


def test_watching_says_what_a_step_selected(checkpoint: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    ids = torch.randint(5, 200, (1, 300), generator=torch.Generator().manual_seed(0))
    with attach(model, REATTENTION) as session:
        session.prefill(ids)
        with session.watching_views() as views:
            logits = session.decode(torch.tensor([[7]]))
        seen = views()
        assert len(seen) == model.config.num_hidden_layers and all(seen)
        session.prefill(ids)
        assert torch.equal(session.decode(torch.tensor([[7]])), logits)
        session.decode(torch.tensor([[7]]))
        assert views() == seen  # no longer watched
    with attach(model, "full") as session:
        session.prefill(ids)
        with session.watching_views() as views:
            session.decode(torch.tensor([[7]]))
        assert not any(views())


def test_a_seed_draws_questions_from_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REATTENTION_DATA", str(write_benchmarks(tmp_path)))
    benchmark = find_benchmark("leval")
    task = "topic_retrieval_longchat"
    every = [row["reference"] for row in benchmark.rows(task)]
    drawn = [
        [row["reference"] for row in benchmark.rows(task, samples=1, seed=seed)]
        for seed in (0, 0, 1, 2, 3, 4, 5)
    ]
    assert drawn[0] == drawn[1] and len({tuple(d) for d in drawn}) > 1
    assert all(len(d) == 1 for d in drawn)
    many = benchmark.rows(task, samples=10_000, seed=0)
    assert [row["reference"] for row in many] == every
    model = dict(abbr="m", path="org/m", window=8192, dtype="float32")
    plan = dict(benchmark="leval", lengths=[3000], tasks=["tpo"], samples=2)
    jobs = [
        plan_jobs([model], METHODS[:1], [{**plan, **more}])[0]
        for more in ({}, {"seed": 0}, {"seed": 1})
    ]
    assert len({job.dataset for job in jobs}) == 3
    assert [job.asked.facts.get("seed") for job in jobs] == [None, 0, 1]


def test_kept_prompts_that_are_damaged_say_so(
    checkpoint: Path, haystack: Path, tmp_path: Path
) -> None:
    plan = dict(benchmark="needle", lengths=[300], depths=[0], repeats=1, haystack=str(haystack))
    (job,) = plan_jobs([dict(path=str(checkpoint))], METHODS[:1], [plan])
    rows = prompt_files.kept_rows(job, tmp_path)
    assert rows == prompt_files.kept_rows(job, tmp_path) == prompt_files.kept_rows(job, None)
    (file,) = tmp_path.glob("*.json")
    for words in ("[", "{}", "[1]"):
        file.write_text(words)
        with pytest.raises(DataError, match="made again"):
            prompt_files.kept_rows(job, tmp_path)


@pytest.mark.parametrize("wrong", [dict(points=0), dict(tokens=0), dict(length=1024)])
def test_perplexity_needs_a_place(checkpoint: Path, wrong: dict[str, int]) -> None:
    asked = dict(length=2048, points=1, tokens=8, haystack="essays") | wrong
    with pytest.raises(ConfigError, match="at least one place"):
        find_benchmark("perplexity").rows("by_position", str(checkpoint), **asked)
