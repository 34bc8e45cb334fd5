"""`reattention-eval bench` on a tiny checkpoint: measured, added to, reported, refused."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from tiny_tokenizers import tiny_tokenizer
from typer.testing import CliRunner, Result

from reattention_eval.cli import app
from reattention_eval.efficiency.e2e import models
from reattention_eval.efficiency.e2e.prompts import text_ids, text_name
from reattention_eval.errors import DataError

METHODS = "reattention:local_size=64,max_spans=4,chunk_size=32 full:chunk_size=32 whole-flash"


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, ["bench", *words])


def e2e(checkpoint: Path, out: Path, *words: str) -> Result:
    common = ["--decode", "2", "--repeats", "2", "--warm-up", "40", "--device", "cpu"]
    return invoke("e2e", str(checkpoint), "--out", str(out), *common, *words)


def test_measured_in_pieces_and_reported(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "e2e-tiny.json"
    result = e2e(checkpoint, out, "--methods", METHODS, "--lengths", "40,300")
    assert result.exit_code == 0, result.output
    result = e2e(checkpoint, out, "--only", "full:chunk_size=32@500", "--only", "whole-flash@500")
    assert result.exit_code == 0, result.output
    cells = json.loads(out.read_text())["cells"]
    assert [cell["tokens"] for cell in cells] == [40, 40, 40, 300, 300, 300, 500, 500]
    page, bars = tmp_path / "page.md", tmp_path / "bars.json"
    name = f"{checkpoint.name}, {json.loads(out.read_text())['device']}"
    page.write_text(f"# Page\n<!-- e2e {name} -->\n<!-- end -->\n")
    result = invoke("report", str(out), "--into", str(page), "--bars", str(bars))
    assert result.exit_code == 0, result.output
    table = out.with_suffix(".md").read_text()
    assert "| Time to first token, seconds | 40 | 300 | 500 |" in table
    assert page.read_text().partition("-->\n")[2].partition("<!--")[0].strip() in table
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert json.loads(bars.read_text()) == []  # not one of the paper's shapes, and not on a GPU


def test_an_analysis_is_listed_measured_and_resumed(checkpoint: Path, tmp_path: Path) -> None:
    out, tiers = tmp_path / "e2e-tiny.json", "device,host,auto"
    words = [
        "analysis",
        str(checkpoint),
        "--lengths",
        "40,300",
        "--cache",
        tiers,
        "--out",
        str(out),
    ]
    words += ["--methods", METHODS]
    listed = invoke(*words, "--list", "--gpu", "h200")
    assert listed.exit_code == 0, listed.output
    lines = [line.split() for line in listed.output.splitlines() if line.startswith("    300 ")]
    assert [line[1].split(":")[0] for line in lines] == [
        "reattention", "full", "whole-flash", "reattention", "reattention",
    ]  # fmt: skip
    sums = [int(line[-1]) for line in lines]
    assert sums == sorted(sums)
    assert sums[0] > 0  # seconds, so many GiB before them
    assert not out.exists()
    measured = invoke(*words, "--decode", "0", "--repeats", "1", "--device", "cpu")
    assert measured.exit_code == 0, measured.output
    first = json.loads(out.read_text())
    where = [(cell["tokens"], cell["cache"], cell["method"]) for cell in first["cells"]]
    per_length = [
        ("device", "reattention"), ("device", "full"), ("device", "native_full"),
        ("host", "reattention"), ("auto", "reattention"),
    ]  # fmt: skip
    assert where == [(tokens, *one) for tokens in (40, 300) for one in per_length]
    again = invoke(*words, "--decode", "0", "--repeats", "1", "--device", "cpu")
    assert again.exit_code == 0
    assert json.loads(out.read_text())["cells"] == first["cells"]
    # what a CPU took is known of no card
    commit = str(first["environments"][0]["commit"] or "yes")[:7]
    here, elsewhere = (invoke(*words, "--list", *gpu).output for gpu in ([], ["--gpu", "h200"]))
    assert sum(line.rstrip().endswith(commit) for line in here.splitlines()) == len(first["cells"])
    assert not any(line.rstrip().endswith(commit) for line in elsewhere.splitlines())


def test_a_text_is_read_by_the_model_s_tokenizer(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    file.write_text("The dog sleeps in house 7. " * 9)
    whole = tiny_tokenizer()(file.read_text()).input_ids
    assert text_ids(str(checkpoint), file, 12).tolist() == [whole[:12]]
    with pytest.raises(DataError, match=rf"has {len(whole)} tokens and 5,000 are to be read"):
        text_ids(str(checkpoint), file, 5000)
    name = text_name(file)
    assert name.startswith("text of book.txt (")
    file.write_text("Another one.")
    assert text_name(file) != name


def test_a_wrong_wish_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    for words, says in (
        (["nothing/here"], "neither a folder nor one of the paper's models"),
        (["LLaMA3.1-8B", "--lengths", "many"], "a length is a number of tokens"),
        (["LLaMA3.1-8B", "--methods", "nothing"], "unknown method 'nothing'"),
        (["LLaMA3.1-8B", "--methods", "snapkv:query_aware=False"], "reads a document and then a q"),
        (["LLaMA3.1-8B", "--only", "full"], "a cell is FORM@LENGTH or FORM@LENGTH@TIER"),
        (["LLaMA3.1-8B", "--cache", "device,disk"], "unknown cache 'disk'; there are: device,"),
        (["LLaMA3.1-8B", "--text", "x"], "a text is read by a checkpoint's tokenizer"),
        (["LLaMA3.1-8B", "--methods", "whole-cudnn"], "cannot run on cpu"),
    ):
        result = invoke("e2e", *words, "--device", "cpu", "--out", str(tmp_path / "x.json"))
        assert result.exit_code == 2
        assert says in " ".join(result.output.split()), result.output
    assert not (tmp_path / "x.json").exists()


def test_what_cannot_be_kept_or_held_is_said_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["e2e", "LLaMA3.1-8B", "--methods", "reattention", "--lengths", "64"]
    words += ["--dtype", "bfloat16"]  # unset, a processor without it computes in float32
    monkeypatch.setattr(models, "random_model", None)
    monkeypatch.setattr(models, "free_bytes", lambda device: 9 << 30)
    result = invoke(*words, "--device", "cpu", "--out", str(tmp_path / "x.json"))
    assert result.exit_code == 2
    assert "LLaMA3.1-8B take 15.0 GiB and 9.0 are free on cpu" in " ".join(result.output.split())
    (tmp_path / "file").write_text("{}")
    for out in ("file/x.json", "file"):
        result = invoke(*words, "--device", "cpu", "--out", str(tmp_path / out))
        assert result.exit_code == 2
        assert "GiB" not in result.output and str(tmp_path) in "".join(result.output.split())


def test_auto_is_listed_with_the_keys_that_have_no_room_on_a_card() -> None:
    words = ["LLaMA3.1-8B", "--gpu", "h200", "--gpu-memory", "79.1", "--methods", "reattention"]
    words += ["--cache", "values_on_host,host,auto", "--lengths", "256K,1M", "--list"]
    result = invoke("analysis", *words)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines() if "reattention, auto" in line]
    assert not any("room" in line for line in lines)
    assert float(lines[0][3]) < 79  # of the GPU; nothing of the host
    gpu, host = map(float, lines[1][3:5])
    assert gpu < 79.1
    assert 64 < host < 90  # all values, and keys of a few layers
    assert invoke("analysis", "LLaMA3.1-8B", "--list", "--cache", "disk").exit_code == 2


def test_rates_are_shown_in_80_columns(tmp_path: Path) -> None:
    records = sorted(Path(__file__).parents[2].glob("results/gpu/e2e-*-nvidia-h200.json"))
    words = ["bench", "rates", *map(str, records), "--into", str(tmp_path / "rates.json")]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if line.startswith(" reattention")]
    assert len(lines) >= 9
    assert all(len(line) <= 80 and "…" not in line for line in lines)
    assert all(re.search(r" \d[\d,]+ [0-9a-f]{7} .*%", line) for line in lines), lines


@pytest.mark.slow  # starts several processes that load a model each
def test_a_cold_start_is_measured_in_processes_of_its_own(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "e2e-tiny.json"
    words = ["cold", str(checkpoint), "--tokens", "70", "--device", "cpu", "--out", str(out)]
    result = invoke(*words, "--method", "full")
    assert result.exit_code == 0, result.output
    (cold,) = json.loads(out.read_text())["cold"]
    for state in ("empty", "filled"):
        assert cold[state]["first_seconds"] > 0
        assert cold[state]["second_seconds"] > 0
    assert "attaching" in result.output


def test_a_child_that_fails_is_said(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    words = ["--device", "cpu", "--out", str(tmp_path / "x.json")]
    result = invoke("cold", str(checkpoint), *words)
    assert result.exit_code == 2
    assert "the cold start could not be measured: status 1" in " ".join(result.output.split())
    result = invoke("cold", "nothing/here", *words)
    assert "neither a folder" in " ".join(result.output.split())


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_report_needs_a_record(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "e2e.json"
    if content:
        path.write_text(content)
    result = invoke("report", str(path))
    assert result.exit_code == 2
    assert "reattention-eval bench e2e" in " ".join(result.output.split())
