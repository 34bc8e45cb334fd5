"""The run without OpenCompass leaves what the run with it leaves."""

from __future__ import annotations

import json
import logging
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_benchmarks import write_benchmarks

from reattention_eval.errors import ConfigError
from reattention_eval.harness import BenchmarkDataset, LongContextLM, Sample
from reattention_eval.harness.compose import plan_jobs
from reattention_eval.harness.only_writer import held
from reattention_eval.harness.prompt_runner import PromptRunner
from reattention_eval.harness.standalone import main, read_plans, run_standalone
from reattention_eval.report.records import read_records

METHODS = """
methods = [
    dict(type="full"),
    dict(type="streaming_llm", sink_size=16, window_size=496, chunk_size=64),
]
"""


@pytest.fixture
def words(checkpoint: Path, haystack: Path, tmp_path: Path) -> list[str]:
    (tmp_path / "methods.py").write_text(METHODS)
    return [
        "--model", str(checkpoint), "--methods", str(tmp_path / "methods.py"),
        "--haystack", str(haystack), "--lengths", "450", "700", "--depths", "0", "90",
        "--repeats", "2", "--work-dir", str(tmp_path / "work"),
    ]  # fmt: skip


def test_it_leaves_what_opencompass_leaves(
    words: list[str], checkpoint: Path, haystack: Path, tmp_path: Path
) -> None:
    assert main(words) == 0
    work = tmp_path / "work"
    names = {path.parent.name.rsplit("-", 1)[0] for path in work.glob("predictions/*/*.json")}
    assert names == {"tiny-llama-full", "tiny-llama-streaming_llm-512"}
    assert len(list(work.glob("results/*/*.json"))) == 4
    assert len(list(work.glob("records/*/*.manifest.json"))) == 4
    assert (work / "report" / "heatmap.png").is_file()
    # one sample of a dataset keeps what its layers attended to, where that was a part
    kept = [
        (index, len(record["attended"]), record["attended"][0])
        for path in sorted(work.glob("records/*/*-700-*.jsonl"))
        for index, record in read_records(path).items()
        if "attended" in record
    ]
    assert kept == [(1, 2, [0, 16, 204, 700])]
    # the very predictions of the OpenCompass side
    path = next(work.glob("predictions/tiny-llama-full-*/needle-magic_number-450-*.json"))
    saved = json.loads(path.read_text())
    rows = BenchmarkDataset.load(
        "needle", "magic_number", tokenizer=str(checkpoint), length=450, depths=[0, 90],
        repeats=2, chat_template=True, haystack=str(haystack),
    )  # fmt: skip
    manifest = json.loads(next(work.glob("records/*full*/*450*.manifest.json")).read_text())
    lm = LongContextLM(path=str(checkpoint), chat_template=True, dtype=manifest["model"]["dtype"])
    for i, row in enumerate(rows):
        sample = Sample(row["prompt"], row["answer_prefix"], row["continuation"])
        output = lm.run([sample], 16)[0]
        assert saved[str(i)]["prediction"] == output.text
        assert saved[str(i)]["answer_nll"] == output.record["answer_nll"]
        assert saved[str(i)]["n_tokens"] == 450


def test_a_second_call_runs_nothing_anew(words: list[str], tmp_path: Path) -> None:
    assert main(words) == 0
    files = {p: p.read_bytes() for p in (tmp_path / "work").glob("records/*/*.jsonl")}
    assert main(words) == 0
    assert {p: p.read_bytes() for p in files} == files


def test_a_failure_is_in_the_status(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reattention_eval.harness import PromptRunner

    def broken(*_: object, **__: object) -> None:
        raise MemoryError("too long")

    monkeypatch.setattr(PromptRunner, "run", broken)
    assert main(words) == 1
    table = (tmp_path / "work" / "report" / "table.md").read_text()
    assert "4 of 4 samples failed (sample 0: MemoryError: too long)" in table


def test_a_method_that_cannot_run_leaves_the_others_results(
    words: list[str], tmp_path: Path
) -> None:
    broken = '[\n    dict(type="kvpress", press="NoSuchPress"),'
    (tmp_path / "methods.py").write_text(METHODS.replace("[", broken, 1))
    assert main(words) == 1
    assert len(list((tmp_path / "work").glob("results/*/*.json"))) == 4
    table = (tmp_path / "work" / "report" / "table.md").read_text()
    # its rows have its name, and the reason
    assert re.search(r"\n\| (\S+: )?kvpress [\d,]+ \| failed \|", table), table
    assert re.search(r"\n- \S+ on \S+: no predictions, \S.*NoSuchPress", table), table


def test_it_needs_no_opencompass() -> None:
    code = (
        "import sys; sys.modules['opencompass'] = sys.modules['mmengine'] = None; "
        "import reattention_eval.harness.standalone"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_plans_run_as_opencompass_runs_them(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmengine.config import Config

    from reattention_eval.harness.compose import evaluation
    from reattention_eval.harness.tasks import LongContextEvalTask, LongContextInferTask

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REATTENTION_DATA", str(write_benchmarks(tmp_path / "data")))
    plans = [
        dict(benchmark="longbench", lengths=[31500], tasks=["samsum", "trec"]),
        dict(benchmark="leval", lengths=[300], tasks=["tpo"], samples=2),
    ]
    (tmp_path / "plans.py").write_text(f"plans = {plans!r}\n")
    (tmp_path / "methods.py").write_text(METHODS)
    # the packages are there, but nothing may ask for them
    code = (
        "import sys; sys.modules['opencompass'] = sys.modules['mmengine'] = None\n"
        "from reattention_eval.harness.standalone import main, read_plans\n"
        f"sys.exit(main(['--model', {str(checkpoint)!r}, '--methods', 'methods.py',"
        " '--plans', 'plans.py', '--work-dir', 'alone']))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=300, cwd=tmp_path, env=environment
    )
    methods = runpy.run_path(str(tmp_path / "methods.py"))["methods"]
    model = dict(
        type="reattention_eval.harness.LongContextLM", path=str(checkpoint), window=8192,
        chat_template=True,
    )  # fmt: skip
    run = evaluation([model], methods, plans)
    for entry in run["models"]:
        config = Config(
            {"models": [entry], "datasets": [run["datasets"]], "work_dir": str(tmp_path / "oc")}
        )
        LongContextInferTask(config).run()
        LongContextEvalTask(config).run()
    alone, other = (
        {
            path.relative_to(tmp_path / name): path
            for path in (tmp_path / name).glob("results/*/*.json")
        }
        for name in ("alone", "oc")
    )
    results = list(alone)
    assert len(results) == 2 * 3
    for name in results:
        ours, theirs = (json.loads(files[name].read_text()) for files in (alone, other))
        assert ours.pop("details")  # OpenCompass keeps them only if its command line says so
        assert ours == theirs
    predictions = sorted((tmp_path / "alone" / "predictions").glob("*/*.json"))
    assert len(predictions) == 2 * 3
    for path in predictions:
        twin = tmp_path / "oc" / path.relative_to(tmp_path / "alone")
        assert path.read_bytes() == twin.read_bytes()


def test_files_without_plans_are_refused(tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text("x = 1\n")
    with pytest.raises(ConfigError, match="no plan"):
        read_plans(tmp_path / "none.py")


def test_other_weights_in_the_same_folder_run_again(
    checkpoint: Path, haystack: Path, tmp_path: Path
) -> None:
    """As a training that goes on leaves them: every name and size is as it was."""
    model, method = shutil.copytree(checkpoint, tmp_path / "model"), [dict(type="full")]
    plan = dict(benchmark="needle", lengths=[450], depths=[0], repeats=2, haystack=str(haystack))
    (job,) = plan_jobs([dict(path=str(model))], method, [plan])
    sizes = {path.name: path.stat().st_size for path in model.iterdir()}

    def answers(folder: str) -> list[str]:
        run_standalone([job], tmp_path / folder)
        (path,) = (tmp_path / folder).glob("records/*/*.jsonl")
        return [line["prediction"] for line in map(json.loads, path.read_text().splitlines())]

    first = answers("work")
    assert answers("work") == first  # nothing ran again
    path = model / "model.safetensors"
    path.rename(tmp_path / "saved.safetensors")
    weights = load_file(tmp_path / "saved.safetensors")
    save_file({name: tensor.flip(0) for name, tensor in weights.items()}, path, {"format": "pt"})
    assert {path.name: path.stat().st_size for path in model.iterdir()} == sizes
    other = answers("fresh")
    assert other != first and answers("work") == [*first, *other]
    lines = next((tmp_path / "work").glob("records/*/*.jsonl")).read_text().splitlines()
    assert len({json.loads(line)["weights"] for line in lines}) == 2
    (old,) = (tmp_path / "fresh").glob("records/*/*.jsonl")
    lines = map(json.loads, old.read_text().splitlines())
    unsaid = [{k: v for k, v in one.items() if k != "weights"} for one in lines]
    old.write_text("".join(json.dumps(one) + "\n" for one in unsaid))
    assert answers("fresh") == other  # records of before are taken over


def test_the_end_of_a_tokenizers_turns_ends_answers(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "tuned")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": "<|im_end|>"}))
    runner = PromptRunner(str(folder))
    try:
        ends = runner.tokenizer.convert_tokens_to_ids(["</s>", "<|im_end|>"])
        assert runner.stop_token_ids == sorted(ends)
    finally:
        runner.close()


def results_of(work: Path) -> dict[str, bytes]:
    return {str(p.relative_to(work)): p.read_bytes() for p in work.glob("results/*/*.json")}


@pytest.mark.slow
def test_processes_that_share_a_run_do_each_dataset_once(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*words[:-1], str(tmp_path / "alone")]) == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    module = [sys.executable, "-m", "reattention_eval.harness.standalone"]
    several = [
        subprocess.Popen([*module, *words, "--share"], env=environment, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300)[1].decode() for process in several]
    assert [process.returncode for process in several] == [0, 0]
    assert results_of(tmp_path / "work") == results_of(tmp_path / "alone")
    taken = [text.count("samples on disk") for text in said]
    assert sum(taken) == 4
    for path in (tmp_path / "work").glob("records/*/*.jsonl"):
        assert len(path.read_bytes().splitlines()) == 4
    from reattention_eval.harness import PromptRunner

    monkeypatch.setattr(PromptRunner, "__init__", lambda *_, **__: pytest.fail("it was done"))
    assert main([*words, "--share"]) == 0


def test_sharing_leaves_what_is_in_other_hands(words: list[str], tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert main([*words, "--share"]) == 0
    result = next(work.glob("results/*full*/*-700-*.json"))
    records = work / "records" / result.parent.name / f"{result.stem}.jsonl"
    before = records.read_bytes()
    result.unlink()
    with held(records, 0, logging.getLogger()):
        assert main([*words, "--share"]) == 0
    assert not result.exists()
    assert main([*words, "--share"]) == 0
    assert result.exists() and records.read_bytes() == before


def test_what_fails_is_tried_once_and_leaves_the_rest(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reattention_eval.harness import PromptRunner

    broken = '[\n    dict(type="kvpress", press="NoSuchPress"),'
    (tmp_path / "methods.py").write_text(METHODS.replace("[", broken, 1))
    whole, tried = PromptRunner.run, []

    def run(self: PromptRunner, samples: list[Sample], *args: object, **more: object) -> object:
        if self.method.name == "full":
            tried.append(samples[0].prompt)
            raise MemoryError("too long")
        return whole(self, samples, *args, **more)

    monkeypatch.setattr(PromptRunner, "run", run)
    assert main([*words, "--share"]) == 1
    assert len(tried) == len(set(tried)) == 8
    assert {Path(name).parent.name[:-9] for name in results_of(tmp_path / "work")} == {
        "tiny-llama-streaming_llm-512"
    }


def test_a_lost_gpu_ends_the_process_and_not_the_run(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with monkeypatch.context() as patched:
        patched.setattr(PromptRunner, "run", lost)
        patched.setattr(torch.cuda, "is_initialized", lambda: True)
        patched.setattr(torch.cuda, "synchronize", lost)
        assert main([*words, "--share"]) == 1
    assert len(list((tmp_path / "work").glob("records/*/*.jsonl"))) == 1
    assert main([*words, "--share"]) == 0
    assert len(results_of(tmp_path / "work")) == 4


def test_methods_that_load_alike_share_the_model(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reattention_eval.harness import kept_model

    more = METHODS.replace(
        "[", '[\n    dict(type="dynamic_ntk"),\n    dict(type="native_full"),', 1
    )
    (tmp_path / "methods.py").write_text(more)
    loads: list[str] = []
    plain = kept_model.load_model

    def load(path: str, **more: object) -> object:
        loads.append(path)
        return plain(path, **more)

    monkeypatch.setattr(kept_model, "load_model", load)
    assert main([*words, "--lengths", "700", "--depths", "90", "--repeats", "1"]) == 0
    assert len(loads) == 2
    shared = [json.loads(text) for text in results_of(tmp_path / "work").values()]
    assert len(shared) == 4
    full, native = (
        next(tmp_path.glob(f"work/results/*-{m}-*/*")) for m in ("llama-full", "native_full")
    )
    answers = [json.loads(path.read_text())["details"] for path in (full, native)]
    assert answers[0] == answers[1]
