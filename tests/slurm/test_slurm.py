"""A real SLURM runs evaluations; tasks are killed in the middle, and nothing is lost or doubled."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from reattention_eval.cli.configs import config_path
from slurm.cluster import PARTITION
from slurm.runs import (
    Surroundings,
    ask,
    assert_whole_and_equal,
    job_facts,
    kill_a_task,
    opencompass,
    run_of,
    samples_on_disk,
    wait_for,
)

pytestmark = pytest.mark.slurm
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
SOME, PER_DATASET = 4, 18  # samples; a method has two datasets


def test_slurm_runner_retries_a_killed_task(
    surroundings: Surroundings, local_run: Path, tmp_path: Path
) -> None:
    process = opencompass(
        surroundings,
        tmp_path,
        "-p",
        PARTITION,
        REATTENTION_RUNNER="slurm",
        REATTENTION_SLURM_JOBS="2",
        REATTENTION_SLURM_OPTIONS="--time=30 --comment='two words'",
    )
    wait_for("samples", lambda: samples_on_disk(tmp_path, "reattention") >= SOME)
    jobs = ask(surroundings, "squeue", "-h", "-o", "%P %k %l %D")
    assert f"{PARTITION} two words 30:00 1" in jobs.splitlines()
    kill_a_task(tmp_path)
    assert process.wait(timeout=600) == 0, (tmp_path / "log").read_text()
    assert_whole_and_equal(run_of(tmp_path), local_run)


def test_the_slurm_flag_works_on_our_configurations(
    surroundings: Surroundings, local_run: Path, tmp_path: Path
) -> None:
    words = ("--slurm", "-p", PARTITION, "--max-num-workers", "2", "--retry", "1")
    process = opencompass(surroundings, tmp_path, *words)
    wait_for("samples", lambda: samples_on_disk(tmp_path, "reattention") >= SOME)
    running = ask(surroundings, "squeue", "-h", "-t", "R", "-o", "%i %j").splitlines()
    assert running and all("OpenICLInfer[tiny-llama-" in line for line in running)
    ask(surroundings, "scancel", running[0].split()[0])
    assert process.wait(timeout=600) == 0, (tmp_path / "log").read_text()
    run = run_of(tmp_path)
    assert_whole_and_equal(run, local_run)
    # the task that goes on after a failing dataset ran, not OpenCompass's own
    cancelled = [p.read_text() for p in (run / "logs" / "infer").glob("*/*.out")]
    assert any("CANCELLED" in text for text in cancelled)
    assert not (tmp_path / ".cache").exists()  # no dataset was built to learn its size


def test_arrays_survive_requeue_and_kill(
    surroundings: Surroundings, local_run: Path, tmp_path: Path
) -> None:
    arrays, summary = submit(surroundings, tmp_path, config_path("eval_demo.py"))
    assert len(arrays) == 2
    wait_for("samples", lambda: samples_on_disk(tmp_path, "full") >= SOME)
    kill_a_task(tmp_path)

    def own_samples(element: str) -> int:
        length = surroundings.lengths[int(element.rpartition("_")[2])]
        return samples_on_disk(tmp_path, "reattention", length)

    def in_the_middle(restarts: int, more_than: int) -> str:
        """An element of the second array, restarted so often, with so many samples on disk."""
        element = running_element(surroundings, arrays[1], restarts)
        return element if element and more_than < own_samples(element) < PER_DATASET else ""

    element = wait_for("an element in its middle", lambda: in_the_middle(0, 1))
    ask(surroundings, "scontrol", "requeue", element)
    wait_for("its end", lambda: not running_element(surroundings, element))
    kept = own_samples(element)
    element = wait_for("a sample after its next start", lambda: in_the_middle(1, kept))
    # what SLURM sends before the time limit
    ask(surroundings, "scancel", "--signal=USR1", "--batch", element)
    final = finished(surroundings, summary)
    run = run_of(tmp_path)
    logs = {p.name: p.read_text() for p in (run / "logs" / "slurm").iterdir()}
    assert final["JobState"] == "COMPLETED", logs
    assert_whole_and_equal(run, local_run)
    assert "try 1 of 3 ended with status 137" in "\n".join(logs.values())
    (restarted,) = (text for name, text in logs.items() if name.endswith(f"-{element}.out"))
    assert "the time limit is near: back into the queue" in restarted
    assert "element " in restarted and "restart 2" in restarted
    begun = [int(n) for n in re.findall(r"(\d+) samples on disk", restarted)]
    assert begun[0] == 0 and begun == sorted(set(begun)) and len(begun) == 3
    (summed,) = (text for name, text in logs.items() if name.startswith("summary-"))
    assert "Each row is tiny-llama under one long-context method" in summed


def test_going_on_submits_only_what_is_missing(
    surroundings: Surroundings, local_run: Path, tmp_path: Path
) -> None:
    """Submitting a run anew, in its own directory, after an element was cancelled for good."""
    arrays, summary = submit(surroundings, tmp_path, config_path("eval_demo.py"))
    wait_for("samples", lambda: samples_on_disk(tmp_path, "reattention") >= SOME)
    ask(surroundings, "scancel", running_element(surroundings, arrays[1]))
    assert finished(surroundings, summary)["ExitCode"] == "1:0"
    run = run_of(tmp_path)
    page = (run / "report" / "table.md").read_text()
    assert re.search(
        r"unfinished, \d+ of 18 samples are done; run the same command with `-r`", page
    )
    assert "| unfinished (" in page
    again, summary = submit(surroundings, tmp_path, config_path("eval_demo.py"), "-r", run.name)
    assert len(again) == 1
    assert finished(surroundings, summary)["JobState"] == "COMPLETED"
    assert_whole_and_equal(run, local_run)


def test_a_task_that_fails_is_seen_in_the_status_and_the_table(
    surroundings: Surroundings, tmp_path: Path
) -> None:
    """One method cannot be run on the model: its scope is beyond the trained window."""
    config = tmp_path / "eval_half.py"
    config.write_text(HALF.format(path=surroundings.variables["REATTENTION_RUN_MODEL"]))
    for way in ("runner", "flag", "array"):
        cwd = tmp_path / way
        cwd.mkdir()
        if way == "array":
            arrays, summary = submit(surroundings, cwd, config)
            facts = [fact for array in arrays for fact in job_facts(surroundings, array)]
            assert {fact["TresPerNode"] for fact in facts} == {"gres:gpu:1"}
            assert finished(surroundings, summary)["ExitCode"] == "1:0"
        else:
            words = ["--slurm"] if way == "flag" else []
            variables = {"REATTENTION_RUNNER": "slurm", "REATTENTION_SLURM_RETRY": "0"}
            process = opencompass(
                surroundings, cwd, *words, "-p", PARTITION, "--retry", "0", config=config,
                **variables,
            )  # fmt: skip
            assert process.wait(timeout=600) == 1, (cwd / "log").read_text()
        report = run_of(cwd) / "report"
        rows = [r for r in (report / "table.md").read_text().splitlines() if r.startswith("|")]
        assert [row.split("|")[-2].strip() for row in rows[2:]] == ["0.0 (n=1)", "missing"]
        assert "Missing or failed" in (report / "table.md").read_text()
        assert json.loads((report / "expected.json").read_text())


HALF = """
from reattention_eval.harness.runners import chosen_sections
sections = chosen_sections.build()()
infer, eval = sections["infer"], sections["eval"]
del sections
work_dir = 'outputs/half'
summarizer = dict(type='reattention_eval.harness.LongContextSummarizer')
models = [
    dict(type='reattention_eval.harness.LongContextLM', abbr=name, path={path!r}, dtype='float32',
         method=method, run_cfg=dict(num_gpus=1))
    for name, method in (
        ('whole', dict(type='full')),
        ('broken', dict(type='reattention', local_size=8192)),
    )
]
datasets = [
    dict(abbr='rows', type='row_dataset.RowDataset', rows=[dict(prompt='the dog', answer='x')],
         reader_cfg=dict(input_columns=['prompt'], output_column='answer'),
         infer_cfg=dict(
             prompt_template=dict(
                 type='opencompass.openicl.icl_prompt_template.PromptTemplate', template='x'),
             retriever=dict(type='opencompass.openicl.icl_retriever.ZeroRetriever'),
             inferencer=dict(type='reattention_eval.harness.LongContextGenInferencer',
                             prompt_column='prompt', max_out_len=2)),
         eval_cfg=dict(evaluator=dict(
             type='opencompass.openicl.icl_evaluator.AccEvaluator')))
]
"""


def test_a_dry_run_lists_every_job_and_submits_none(
    surroundings: Surroundings, tmp_path: Path
) -> None:
    before = ask(surroundings, "squeue", "-h")
    said = reattention_slurm(surroundings, tmp_path, config_path("eval_demo.py"), "--dry-run")
    commands = [line.split() for line in said.splitlines() if line.startswith("sbatch ")]
    assert [next(w for w in c if w.startswith("--array")) for c in commands[:-1]] == [
        "--array=0-1",
        "--array=0-1",
    ]
    assert "--dependency=afterany:ID" in commands[-1]
    assert ask(surroundings, "squeue", "-h") == before
    assert not (tmp_path / "outputs").exists()


def reattention_slurm(surroundings: Surroundings, cwd: Path, config: Path, *words: str) -> str:
    return ask(
        surroundings, sys.executable, "-c", "from reattention_eval.cli import app; app()", "slurm",
        str(config), "-p", PARTITION, *words, cwd=cwd,
    )  # fmt: skip


def submit(
    surroundings: Surroundings, cwd: Path, config: Path, *words: str
) -> tuple[list[str], str]:
    """Ids of the arrays and of the job that makes the tables."""
    said = reattention_slurm(surroundings, cwd, config, *words)
    (ids,) = re.findall(r"squeue --jobs=([\d,]+)", said)
    *arrays, summary = ids.split(",")
    return arrays, summary


def running_element(surroundings: Surroundings, array: str, restarts: int | None = 0) -> str:
    """JOB_INDEX of an element that runs for the `restarts`-th time again (None: however often);
    empty if none does."""
    for facts in job_facts(surroundings, array):
        often = restarts is None or facts["Restarts"] == str(restarts)
        if facts["JobState"] == "RUNNING" and often:
            return f"{facts['ArrayJobId']}_{facts['ArrayTaskId']}"
    return ""


def finished(surroundings: Surroundings, job: str) -> dict[str, str]:
    """The facts of a job once it has ended."""

    def ended() -> dict[str, str] | None:
        (facts,) = job_facts(surroundings, job)
        return facts if facts["JobState"] in OVER else None

    return wait_for(f"job {job}", ended, seconds=600)
