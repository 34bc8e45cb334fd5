"""OpenAI's MRCR on tiny Parquet files in the real format: bins, turns, and the official grade."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import tiktoken
import tiktoken.load
from pyarrow import parquet
from tiktoken_ext import openai_public
from tiny_raw_files import write_mrcr

from reattention_eval.benchmarks import find_benchmark, mrcr
from reattention_eval.benchmarks.base import Answer, load_tokenizer
from reattention_eval.errors import ConfigError, DataError
from reattention_eval.evaluators import score

MRCR = find_benchmark("mrcr")


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, list[dict[str, Any]]]:
    """Words stand for the tokens of o200k_base, whose file no test can fetch."""
    monkeypatch.setenv("REATTENTION_DATA", str(tmp_path))
    monkeypatch.setattr(mrcr, "_count", lambda: lambda text: len(text.split()))
    return write_mrcr(tmp_path)


def test_a_length_is_a_bin(raw: dict[int, list[dict[str, Any]]]) -> None:
    def marks(task: str, length: int) -> list[str]:
        try:
            rows = MRCR.rows(task, "", length=length, chat_template=False)
        except DataError:  # a bin without a row is no benchmark
            return []
        return [row["reference"]["random_string_to_prepend"] for row in rows]

    for task in ("2needle", "4needle", "8needle"):
        own = raw[int(task[0])]
        for length in mrcr.BINS:
            expected = []
            for row in own:
                texts = [turn["content"] for turn in json.loads(row["prompt"])]
                tokens = sum(len(text.split()) for text in [*texts, row["answer"]])
                if length / 2 < tokens <= length:
                    expected.append(row["random_string_to_prepend"])
            assert marks(task, length) == expected
    with pytest.raises(ConfigError, match="bins end at 8192, 16384"):
        MRCR.check("2needle", 8000)


def test_the_edges_of_the_bins() -> None:
    def bins(tokens: int) -> list[int]:
        row = {"n_chars": 4 * tokens, "answer": "", "prompt": '[{"content": "x"}]'}
        return [n for n in mrcr.BINS if mrcr._in_bin(row, n, {"x": tokens, "": 0}.__getitem__)]

    assert [bins(n) for n in (4095, 4096, 8192, 8193, 16384, 2**20, 2**20 + 1)] == [
        [], [8192], [8192], [16384], [16384], [2**20], [],
    ]  # fmt: skip


def test_a_chat_model_reads_turns_and_a_base_model_their_text(
    raw: dict[int, list[dict[str, Any]]], checkpoint: Path
) -> None:
    row = raw[2][1]
    turns = json.loads(row["prompt"])
    asked = MRCR.ask("2needle", 8192, chat_template=True, samples=None, scoring="official")
    assert (asked.chat_template, asked.max_prompt_tokens) == (False, None)
    assert asked.facts["chat_template"] is True
    chat = MRCR.rows("2needle", str(checkpoint), **asked.recipe)[0]["prompt"]
    tokenizer = load_tokenizer(str(checkpoint))
    assert chat == tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert chat.count("<|im_start|>user") == 3
    plain = MRCR.rows("2needle", "", length=8192, chat_template=False)[0]["prompt"]
    assert plain == "".join(
        f"{turn['role'].capitalize()}:\n{turn['content']}\n\n" for turn in turns
    ) + ("Assistant:\n")
    names = {
        json.dumps(MRCR.ask("2needle", 8192, chat_template=c, samples=s, scoring="both").identity)
        for c, s in ((True, None), (False, None), (True, 3))
    }
    assert len(names) == 3


def test_the_grade_is_the_ratio_behind_the_right_prefix() -> None:
    reference = {"answer": "aYooA poem of tapirs.", "random_string_to_prepend": "aYoo"}

    def grade(response: str) -> float:
        return score("mrcr", "2needle", [response], [reference])["ratio"]

    assert grade("aYooA poem of tapirs.") == 100
    assert grade("A poem of tapirs.") == 0
    assert grade(" aYooA poem of tapirs.") == 0
    assert grade("aYoo") == 0
    near = difflib.SequenceMatcher(None, "A tale of tapirs", "A poem of tapirs.").ratio()
    assert grade("aYooA tale of tapirs") == pytest.approx(100 * near)
    both = score("mrcr", "2needle", ["aYooA poem of tapirs.", ""], [reference] * 2)
    assert both == {"ratio": 50.0}


def test_figures(raw: dict[int, list[dict[str, Any]]]) -> None:
    rows = MRCR.rows("4needle", "", length=8192, chat_template=False)
    answers = [Answer(rows[0]["reference"]["answer"], 5000), Answer("", 5000)]
    found = MRCR.result("4needle", rows, answers, "official")
    assert (found["score"], found["ratio"], found["n"]) == (50.0, 50.0, 2)


def test_without_the_encoding_the_command_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REATTENTION_DATA", str(tmp_path))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "none"))
    write_mrcr(tmp_path)
    with pytest.raises(DataError, match=r"TIKTOKEN_CACHE_DIR.*get_encoding\('o200k_base'\)"):
        MRCR.check("2needle", 8192)


def test_the_encoding_is_looked_for_where_tiktoken_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        openai_public, "load_tiktoken_bpe", lambda url, **_: asked.append(url) or {}
    )
    openai_public.o200k_base()
    assert asked == [mrcr._ENCODING]
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: Words())
    with pytest.raises(DataError, match="o200k_base"):
        mrcr._count()
    mrcr._encoding_file().write_bytes(b"cached")
    assert tiktoken.load.read_file_cached(mrcr._ENCODING) == b"cached"  # asks no network
    assert mrcr._count()("three words here") == 3


class Words:
    def encode(self, text: str, **_: Any) -> list[str]:
        return text.split()


def test_damaged_parquet_is_named(raw: dict[int, list[dict[str, Any]]], tmp_path: Path) -> None:
    path = tmp_path / "mrcr" / "2needle_1.parquet"
    path.write_bytes(b"PAR1" + b"no" * 40)
    with pytest.raises(DataError, match=r"2needle_1\.parquet is not Parquet .*prepare mrcr"):
        MRCR.rows("2needle", "", length=8192, chat_template=False)
    row = {**raw[2][0], "prompt": "no JSON"}
    parquet.write_table(pa.Table.from_pylist([row]), path)
    with pytest.raises(DataError, match=r"row 1 of .*2needle_1\.parquet is not a row of mrcr's"):
        MRCR.rows("2needle", "", length=16384, chat_template=False)
    path.unlink()
    with pytest.raises(DataError, match="reattention-eval prepare mrcr"):
        MRCR.check("2needle", 8192)


def test_it_runs_through_opencompass(
    raw: dict[int, list[dict[str, Any]]], checkpoint: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from mmengine.config import Config

    from reattention_eval.harness.compose import evaluation
    from reattention_eval.harness.tasks import LongContextEvalTask, LongContextInferTask
    from reattention_eval.report import build_report

    monkeypatch.chdir(tmp_path)
    model = dict(
        type="reattention_eval.harness.LongContextLM", path=str(checkpoint), abbr="tiny",
        dtype="float32", chat_template=True,
    )  # fmt: skip
    plan = dict(benchmark="mrcr", lengths=[8192, 16384], samples=1)
    run = evaluation([model], [dict(type="streaming_llm", window_size=480, chunk_size=64)], [plan])
    config = Config(
        {"models": run["models"], "datasets": [run["datasets"]], "work_dir": str(tmp_path / "w")}
    )
    for dataset in config.datasets[0]:
        dataset.infer_cfg.inferencer.max_out_len = 4
    LongContextInferTask(config).run()
    LongContextEvalTask(config).run()
    pairs = [(config.models[0].abbr, dataset.abbr) for dataset in config.datasets[0]]
    report = build_report(tmp_path / "w", pairs)
    assert report.problems == []
    header, _ = report.grids["mrcr, official score: average of all tasks by tokens"]
    assert header == ["method", "8,192", "16,384"]
    assert report.grids["mrcr, 8,192 tokens, official score"][0][1:4] == [
        "2needle", "4needle", "8needle",
    ]  # fmt: skip
