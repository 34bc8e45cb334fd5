"""RULER and parallel needles as OpenCompass sees them, and the configurations that ask for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from tiny_benchmarks import write_benchmarks
from tiny_ruler import paragraph, write_ruler

from reattention_eval.cli.configs import config_path
from reattention_eval.datasets.ruler import RULER_TASKS
from reattention_eval.errors import ConfigError, DataError
from reattention_eval.harness import BenchmarkDataset, BenchmarkEvaluator, LongContextLM, Sample
from reattention_eval.harness.compose import evaluation, real_small_plans

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_ruler(tmp_path_factory.mktemp("tiny") / "data")
    write_benchmarks(folder, repeat=60)
    return folder


@pytest.fixture
def cache(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache in which the essays are the tiny prose."""
    monkeypatch.setenv("REATTENTION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REATTENTION_DATA", str(data))
    (tmp_path / "cache" / "data").mkdir(parents=True)
    prose = json.dumps({"text": " ".join(paragraph(i) for i in range(2500))})
    (tmp_path / "cache" / "data" / "PaulGrahamEssays.json").write_text(prose)
    return tmp_path / "cache"


def ruler(checkpoint: Path, task: str, **changes: Any) -> Any:
    settings = dict(length=2500, samples=2, chat_template=True, tokenizer=str(checkpoint))
    return BenchmarkDataset(
        reader_cfg=dict(input_columns=["prompt"], output_column="reference"),
        abbr=task, benchmark="ruler", task=task, **{**settings, **changes},
    )  # fmt: skip


def test_prompts_run_at_their_length_and_score(checkpoint: Path, cache: Path) -> None:
    lm = LongContextLM(path=str(checkpoint), dtype="float32", chat_template=True)
    for task in ("niah_multikey_1", "vt", "qa_2"):
        dataset = ruler(checkpoint, task)
        rows = list(dataset.test)
        samples = [Sample(r["prompt"], r["answer_prefix"], r["continuation"]) for r in rows]
        records = [lm.run([sample], 1)[0].record for sample in samples]
        tokens = [record["n_tokens"] for record in records]
        assert all(2500 - 128 - 160 <= n <= 2500 - 30 for n in tokens)
        nll = [record["answer_nll"] for record in records]
        fields = dict(test_set=dataset.test, answer_nll=nll, n_tokens=tokens, n_cut=[0, 0])
        right = [" ".join(json.loads(row["reference"])) for row in rows]
        evaluator = BenchmarkEvaluator("ruler", task)
        result = evaluator.evaluate(
            1, 1, dataset.test, predictions=[right[0].upper(), ""], **fields
        )
        assert result["score"] == 50
        assert result["answer_nll"] == pytest.approx(sum(nll) / 2)
        assert [d["score"] for d in result["details"]] == [100, 0]
        assert [d["n_tokens"] for d in result["details"]] == tokens
        with pytest.raises(ConfigError, match="1 predictions for 2 prompts"):
            evaluator.evaluate(1, 1, dataset.test, predictions=right[:1], **fields)
        with pytest.raises(ConfigError, match="more `samples`"):
            BenchmarkEvaluator("ruler", task).evaluate(
                1, 2, dataset.test, predictions=right, **fields
            )


def test_parallel_needles_give_a_figure_a_depth(checkpoint: Path, cache: Path) -> None:
    dataset = BenchmarkDataset(
        reader_cfg=dict(input_columns=["prompt"], output_column="reference"), abbr="parallel",
        benchmark="needle", task="parallel",
        tokenizer=str(checkpoint), length=4000, depths=[0, 50, 100], repeats=2,
        haystack="essays",
    )  # fmt: skip
    first = json.loads(dataset.test["reference"][0]).split("#")[0].split("*")
    fields = dict(
        test_set=dataset.test, answer_nll=[None, None], n_tokens=[4000, 4000], n_cut=[0, 0]
    )
    result = BenchmarkEvaluator("needle", "parallel").evaluate(
        1, 1, dataset.test, predictions=[f"{first[0]}, {first[2]}", ""], **fields
    )
    assert result["score"] == pytest.approx(100 / 3)
    assert result["n"] == 2
    found = {(d["repeat"], d["depth"]): d["accuracy"] for d in result["details"]}
    assert found == {(0, 0): 100, (0, 50): 0, (0, 100): 100, (1, 0): 0, (1, 50): 0, (1, 100): 0}


def load(name: str, monkeypatch: pytest.MonkeyPatch, **variables: str) -> Any:
    for variable, value in variables.items():
        monkeypatch.setenv(f"REATTENTION_{variable}", value)
    return Config.fromfile(config_path(name), format_python_code=False)


def test_the_ruler_configuration(
    checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(
        "eval_ruler_reattn.py", monkeypatch, RUN_MODEL=str(checkpoint), ONLY_LENGTHS="4K,128K",
    )  # fmt: skip
    asked = {(d.task, d.length, d.samples) for d in config.datasets}
    assert asked == {(task, n, 100) for task in RULER_TASKS for n in (4096, 131072)}
    assert {model.method.type for model in config.models} == {
        "full", "streaming_llm", "reattention",
    }  # fmt: skip
    lengths = {d.infer_cfg.inferencer.max_out_len for d in config.datasets}
    assert lengths == {task.max_out_len for task in RULER_TASKS.values()}
    few = load("eval_ruler_reattn.py", monkeypatch, ONLY_TASKS="qa,vt", SAMPLES="3")
    assert {(d.task, d.samples) for d in few.datasets} == {("qa_1", 3), ("qa_2", 3), ("vt", 3)}
    # what changes a prompt changes the name
    assert not {d.abbr for d in few.datasets} & {d.abbr for d in config.datasets}
    with pytest.raises(ConfigError, match="no task vx"):
        load("eval_ruler_reattn.py", monkeypatch, ONLY_TASKS="vx")


def test_the_needle_configuration_has_the_paper_s_settings(
    checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache / "data" / "shakespeare.md").write_text("x")
    config = load(
        "eval_needle_reattn.py", monkeypatch, RUN_MODEL=str(checkpoint), DRY_RUN="1",
    )  # fmt: skip
    single = [d for d in config.datasets if d.task == "needlebench"]
    parallel = [d for d in config.datasets if d.task == "parallel"]
    assert {(len(d.depths), d.repeats, d.chat_template) for d in single} == {(11, 10, False)}
    assert {(len(d.depths), d.repeats) for d in parallel} == {(11, 25)}
    assert (min(d.length for d in single), max(d.length for d in single)) == (32000, 4_000_000)
    assert max(d.length for d in parallel) == 1_000_000
    monkeypatch.delenv("REATTENTION_DRY_RUN")
    (cache / "data" / "shakespeare.md").unlink()
    with pytest.raises(DataError, match=r"shakespeare is not on this machine .* prepare needle"):
        load("eval_needle_reattn.py", monkeypatch)
    few = load(
        "eval_needle_reattn.py", monkeypatch, ONLY_TASKS="parallel", ONLY_LENGTHS="20000",
        SAMPLES="2",
    )  # fmt: skip
    assert [(d.task, d.length, d.samples) for d in few.datasets] == [("parallel", 20000, 2)]


def test_the_small_real_configuration_grows_with_the_machine(
    checkpoint: Path, cache: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load("eval_real_small.py", monkeypatch, RUN_MODEL=str(checkpoint), REAL_SIZE="cpu")
    kinds = [d.abbr.split("-")[0] for d in config.datasets]
    assert [kinds.count(kind) for kind in ("needle", "ruler", "leval")] == [2, 8, 2]
    monkeypatch.setenv("REATTENTION_REAL_SIZE", "gpu")
    plans = {plan["benchmark"]: plan for plan in real_small_plans()}
    assert plans["ruler"]["tasks"] == "all" and max(plans["ruler"]["lengths"]) == 131072
    (data / "leval" / "tpo.jsonl").rename(data / "leval" / "tpo.gone")
    try:
        assert "tpo" not in {p["benchmark"]: p for p in real_small_plans()}["leval"]["tasks"]
    finally:
        (data / "leval" / "tpo.gone").rename(data / "leval" / "tpo.jsonl")
    monkeypatch.setenv("REATTENTION_REAL_SIZE", "tpu")
    with pytest.raises(ConfigError, match="'tpu'; choose from cpu, gpu"):
        real_small_plans()


def test_names_are_equal_for_equal_prompts_only(checkpoint: Path, cache: Path) -> None:
    model = {"path": str(checkpoint), "abbr": "tiny", "chat_template": True}
    plan: dict[str, Any] = {"benchmark": "ruler", "tasks": ["vt"], "lengths": [4096], "samples": 4}

    def name(**changes: Any) -> str:
        run = evaluation([model], [{"type": "full"}], [{**plan, **changes}])
        return str(run["datasets"][0]["abbr"])

    names = [name(), name(samples=5), name(seed=1), name(lengths=[4097]), name(chat_template=False)]
    assert len(set(names)) == 5
    assert name() == names[0]


@pytest.mark.slow
def test_every_task_runs_through_opencompass(checkpoint: Path, cache: Path, tmp_path: Path) -> None:
    """Thirteen tasks, a needle of each kind and L-Eval's files, on a tiny model."""
    folders = {}
    for name, chosen in (
        ("eval_ruler_reattn.py", {"ONLY_LENGTHS": "8192", "SAMPLES": "1"}),
        ("eval_needle_reattn.py", {"ONLY_LENGTHS": "20000", "SAMPLES": "1"}),
        ("eval_real_small.py", {"ONLY_LENGTHS": "4096,31500", "SAMPLES": "1", "REAL_SIZE": "cpu"}),
    ):
        variables = {"RUN_MODEL": str(checkpoint), "ONLY_METHODS": "full,reattention", **chosen}
        environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS),
            "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1",
            **{f"REATTENTION_{key}": value for key, value in variables.items()},
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "opencompass.cli.main", str(config_path(name))],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1200,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        folder = name.removeprefix("eval_").removesuffix(".py").removesuffix("_reattn")
        folders[folder] = next((tmp_path / "outputs" / folder).glob("2*"))
    tasks = {p.stem.split("-")[1] for p in (folders["ruler"] / "results").glob("*-full-*/*.json")}
    assert tasks == set(RULER_TASKS)
    table = (folders["ruler"] / "report" / "table.md").read_text()
    assert all(task in table for task in RULER_TASKS)
    assert "parallel" in " ".join(p.stem for p in (folders["needle"] / "results").glob("*/*"))
    kinds = {p.stem.split("-")[0] for p in (folders["real_small"] / "results").glob("*/*.json")}
    assert kinds == {"needle", "ruler", "leval"}
