"""`plan`, `slurm` and `doctor`: what they print, what they submit, the status they end with."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from reattention_eval.cli import app
from reattention_eval.cli.configs import config_path
from reattention_eval.cli.slurm import compact
from reattention_eval.efficiency import Placement, largest_length, read_shape, usable
from reattention_eval.methods import build_method, list_methods

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
# stands for sbatch: remembers its words and gives out numbers, unless it is told to refuse
SBATCH = """#!{python}
import json, os, sys
from pathlib import Path
if os.environ.get("REFUSE"):
    sys.exit("sbatch: error: invalid partition specified")
seen = Path({seen!r})
lines = seen.read_text().splitlines() if seen.exists() else []
seen.write_text("\\n".join([*lines, json.dumps(sys.argv[1:])]) + "\\n")
print(100 + len(lines))
"""


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "500"})


def test_plan_prints_every_method_and_the_longest_prompt() -> None:
    result = invoke("plan", "--model", MODEL, "--length", "131072", "--gpu-memory", "80")
    assert result.exit_code == 0, result.output
    shape = read_shape(MODEL)
    for name in list_methods():
        method = build_method(name)
        longest = largest_length(shape, method, Placement(), usable(80 * 2**30))
        (line,) = (row for row in result.output.splitlines() if f" {name} " in row)
        # sums of representatives, minima and maxima of pages beside the keys
        cache = {"infllm": 16.9, "quest": 17.0}.get(name, 16.0)
        assert f" {longest:,} " in line and f" {cache} " in line
        assert ("too much" if name == "h2o" else "fits") in line
    assert "8.03 billion parameters in bfloat16" in result.output


def test_plan_ends_with_1_where_the_length_does_not_fit() -> None:
    own = invoke(
        "plan", "--model", MODEL, "--length", "131072", "--gpu-memory", "80", "--method", "h2o"
    )
    assert own.exit_code == 1
    words = ("plan", "--model", MODEL, "--length", "1M", "--method", "full")
    result = invoke(*words, "--gpu-memory", "80")
    assert result.exit_code == 1
    assert "too much" in result.output
    shape = read_shape(MODEL)
    longest = largest_length(shape, build_method("full"), Placement(), usable(80 * 2**30))
    assert f"full: the longest that fits is {longest:,} tokens.\n" in result.output
    assert "trained window is 131,072 tokens" in result.output
    assert invoke(*words, "--gpu-memory", "80", "--gpus", "4").exit_code == 0
    assert invoke(*words, "--gpu-memory", "80", "--tensor-parallel", "4").exit_code == 0
    assert "not even the weights fit" in invoke(*words, "--gpu-memory", "8").output


def test_a_plan_is_whole_in_a_terminal_of_80_columns() -> None:
    words = ["plan", "--model", MODEL, "--length", "131072", "--gpu", "h200"]
    longer = ["plan", "--model", MODEL, "--length", "1M", "--gpu", "h100-80g"]  # h2o: 265,539 GiB
    for asked in (longer, words):
        narrow = CliRunner().invoke(app, asked, env={"COLUMNS": "80"}).output
        assert "\N{HORIZONTAL ELLIPSIS}" not in narrow
        tables = [line for line in narrow.splitlines() if line.startswith(" ")]
        assert max(map(len, tables)) <= 80
    rows = [" ".join(line.split()) for line in tables]
    for one in json.loads(invoke(*words, "--json").output)["plans"]:
        assert any(row.endswith(f" {one['longest_tokens']:,}") for row in rows)
    assert any(row.startswith("reattention 8,192 device 8,192 ") for row in rows)


def test_plan_says_which_tiers_hold_a_prompt_and_how_long_it_takes() -> None:
    words = ("plan", "--model", MODEL, "--length", "1M", "--method", "reattention")
    result = invoke(*words, "--gpu", "h100-80g")
    assert result.exit_code == 0, result.output
    rows = [line for line in result.output.splitlines() if "│" in line]
    tiers = ["device", "values_on_host", "auto", "host"]
    assert [row.split("│")[2].strip() for row in rows] == tiers
    assert ["too much" in row for row in rows] == [True, True, False, False]
    assert "reattention 8,192: 1,048,576 tokens fit with the cache in auto or host." in (
        result.output
    )
    assert " ~" in rows[2]  # the card was not measured
    assert "scaled to this card by both data sheets" in result.output
    measured = invoke(*words[:3], "--length", "128K", "--method", "full", "--gpu", "h200").output
    assert " s " in measured and "~" not in measured
    assert "Times by rates measured with LLaMA3.1-8B" in measured
    unknown = invoke(*words, "--gpu-memory", "80").output
    assert "first token" not in unknown
    assert "No measured rates for a GPU of which only the memory is known" in unknown


def test_plan_says_of_which_methods_times_are_known() -> None:
    words = ("plan", "--model", MODEL, "--length", "128K", "--gpu", "h200", "--method")
    known = "known of full and reattention (any sizes, other settings by default)"
    alone = invoke(*words, "streaming_llm").output
    assert f"No times: they are {known}, one prompt that fits" in alone
    both = invoke(*words, "streaming_llm", "--method", "reattention").output
    assert "Times by rates measured with" in both and f"Times are {known} alone." in both
    plus = invoke(*words, "reattention_plus").output
    assert "~ of reattention_plus, with all on the GPU: those of reattention" in plus
    assert "Times are known" not in plus
    other = invoke(*words, "reattention:local_size=1024,max_spans=223", "--method", "full").output
    assert "Times by rates measured with" in other and "Times are known" not in other


def test_plan_as_json_says_the_same() -> None:
    words = ("--length", "131_072", "--method", "reattention", "--gpu", "h200", "--json")
    result = invoke("plan", "--model", MODEL, *words)
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["plans"][0]["method"]["local_size"] == 4096
    smaller = [word.replace("reattention", "reattention:local_size=2048") for word in words]
    other = json.loads(invoke("plan", "--model", MODEL, *smaller).output)
    assert other["plans"][0]["method"]["local_size"] == 2048
    assert (found["tokens"], found["gpu"]) == (131072, "NVIDIA H200")
    plans = {plan["tier"]: plan for plan in found["plans"]}
    assert list(plans) == ["device", "values_on_host", "host"]
    device = plans["device"]
    assert device["method"]["type"] == "reattention" and device["method"]["max_spans"] == 127
    assert device["ttft_seconds"] == pytest.approx(7.87, rel=0.15)  # results/gpu, ffd7657
    assert device["tokens_per_second"] == pytest.approx(114, rel=0.15)
    assert device["peak_bytes"] == pytest.approx(34.3e9, rel=0.15)
    assert not device["estimated"] and plans["host"]["estimated"]
    assert device["longest_tokens"] < plans["host"]["longest_tokens"]
    assert found["rates"]["scaled_from"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tensor-parallel", "5"), "does not divide the model's 8 KV heads"),
        (("--tensor-parallel", "2", "--gpus", "2"), "not both"),
        (("--dtype", "int3"), "unknown dtype 'int3'"),
        (("--method", "nothing"), "unknown method 'nothing'"),
        (("--gpu-memory", "-1"), "no GPU has -1 GiB"),
        (("--gpu-memory", "nan"), "no GPU has nan GiB"),
        (("--gpu-memory", "inf"), "no GPU has inf GiB"),
        (("--gpu", "h300"), "unknown GPU 'h300'; choose auto (this machine's) or one of h100-80g"),
        (("--length", "1.5M"), "a length is a number of tokens"),
        (("--length", "0"), "a length is a number of tokens"),
        (("--gpus", "33"), "32 layers, which cannot be spread over 33 GPUs; give at most 32"),
        (("--method", "full:chunk=5"), "full has no setting chunk"),
        (("--length", "9999999M"), "a length is a number of tokens"),
    ],
)
def test_plan_says_what_it_cannot_take(words: tuple[str, ...], said: str) -> None:
    result = invoke("plan", "--model", MODEL, "--length", "1000", *words)
    assert result.exit_code == 2
    assert said in result.output.replace("\n", " ")


@pytest.fixture
def submitted(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A demo configuration that can be read, and an sbatch whose words stand in the file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("Words.")
    monkeypatch.setenv("REATTENTION_RUN_MODEL", str(checkpoint))
    monkeypatch.setenv("REATTENTION_HAYSTACK", str(tmp_path / "text.txt"))
    monkeypatch.setenv("REATTENTION_LENGTHS", "600,700,800")
    monkeypatch.setenv("REATTENTION_ONLY_METHODS", "full,reattention")
    seen, tools = tmp_path / "seen", tmp_path / "bin"
    tools.mkdir()
    stand_in = tools / "sbatch"
    stand_in.write_text(SBATCH.format(python=sys.executable, seen=str(seen)))
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    return seen


def calls(seen: Path) -> list[list[str]]:
    return [json.loads(line) for line in seen.read_text().splitlines()]


def test_slurm_submits_an_array_a_model_and_the_tables_behind_them(
    submitted: Path, tmp_path: Path
) -> None:
    config = str(config_path("eval_demo.py"))
    result = invoke("slurm", config, "-p", "gpu", "--at-once", "2", "-o", "--mem=8G", "-w", "runs")
    assert result.exit_code == 0, result.output
    *arrays, summary = calls(submitted)
    (run,) = (tmp_path / "runs").iterdir()
    assert len(arrays) == 2
    for words in arrays:
        assert "--array=0-2%2" in words and "--partition=gpu" in words and "--mem=8G" in words
        assert f"--output={run}/logs/slurm/%x-%A_%a.out" in words
        script, python, frozen, model, size = words[-5:]
        assert Path(script).read_text().startswith("#!/bin/bash")
        assert (python, Path(frozen).parent, size) == (sys.executable, run / "configs", "1")
        assert f"--job-name={model}" in words
    assert "--dependency=afterany:100:101" in summary
    assert (run / "logs" / "slurm").is_dir()  # SLURM makes no folder for its logs
    assert str(run / "report" / "table.md") in result.output.replace("\n", "")

    # one of them is done: the second submission asks for the others alone
    done = run / "predictions" / arrays[0][-2]
    done.mkdir(parents=True)
    frozen_text = Path(arrays[0][-3]).read_text()
    names = sorted({w for w in frozen_text.split("'") if w.startswith("needle-magic_number-600-")})
    (done / f"{names[0]}.json").write_text("{}")
    again = invoke("slurm", config, "-w", "runs", "-r", "latest", "--datasets-per-task", "2")
    assert again.exit_code == 0, again.output
    arrays = calls(submitted)[3:-1]
    assert [next(w for w in c if w.startswith("--array")) for c in arrays] == ["--array=0-1"] * 2
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_slurm_dry_run_writes_and_submits_nothing(submitted: Path, tmp_path: Path) -> None:
    result = invoke("slurm", str(config_path("eval_demo.py")), "-p", "gpu", "--dry-run")
    assert result.exit_code == 0, result.output
    assert result.output.count("sbatch --parsable") == 3
    assert not submitted.exists() and not (tmp_path / "outputs").exists()


def test_slurm_says_why_it_cannot(
    submitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = str(config_path("eval_demo.py"))
    for words, said in (
        (("slurm", "nowhere.py"), "there is no configuration nowhere.py"),
        (("slurm", config, "-r", "20200101_000000"), "holds no run 20200101_000000"),
    ):
        result = invoke(*words)
        assert result.exit_code == 2 and said in result.output.replace("\n", " ")
    monkeypatch.setenv("REFUSE", "1")
    result = invoke("slurm", config, "-p", "gpu")
    assert result.exit_code == 2 and "invalid partition specified" in result.output
    monkeypatch.setenv("PATH", "/nowhere")
    result = invoke("slurm", config)
    assert result.exit_code == 2 and "--dry-run" in result.output


def test_array_indices_are_written_as_sbatch_takes_them() -> None:
    assert compact([]) == ""
    assert compact([0]) == "0"
    assert compact([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"


def test_doctor_finds_models_and_names_what_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REATTENTION_MODELS", str(tmp_path))
    monkeypatch.setenv("REATTENTION_DATA", str(tmp_path / "data"))
    folder = tmp_path / "Qwen2-7B"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_text("")
    result = invoke("doctor")
    assert result.exit_code == 0, result.output
    assert str(folder) in result.output.replace("\n", "")
    assert "0 of 21 files" in result.output
    assert "reattention-eval prepare longbench" in result.output
    (folder / "pytorch_model.bin").unlink()
    result = invoke("doctor")
    assert result.exit_code == 1
    assert "no weights" in result.output and "hf download Qwen/Qwen2-7B" in result.output
