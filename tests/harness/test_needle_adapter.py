"""The needle as OpenCompass sees it: exact lengths in, honest figures out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reattention_eval.errors import ConfigError, DataError
from reattention_eval.harness import BenchmarkDataset, BenchmarkEvaluator, LongContextLM, Sample


@pytest.fixture
def dataset(checkpoint: Path, haystack: Path) -> Any:
    return BenchmarkDataset(
        reader_cfg=dict(input_columns=["prompt"], output_column="reference"),
        abbr="needle", benchmark="needle", task="magic_number", tokenizer=str(checkpoint),
        length=900, depths=[50, 0], repeats=2, chat_template=True, haystack=str(haystack),
    )  # fmt: skip


def rows_of(dataset: Any) -> list[dict[str, Any]]:
    """The rows with what their columns of JSON hold."""
    return [
        {**row, "reference": json.loads(row["reference"]), **json.loads(row["facts"])}
        for row in dataset.test
    ]


def test_every_prompt_has_the_asked_length(dataset: Any, checkpoint: Path) -> None:
    lm = LongContextLM(path=str(checkpoint), dtype="float32", chat_template=True)
    rows = rows_of(dataset)
    assert [(row["repeat"], row["depth"]) for row in rows] == [(0, 0), (0, 50), (1, 0), (1, 50)]
    for row in rows:
        sample = Sample(row["prompt"], row["answer_prefix"], row["continuation"])
        assert lm.run([sample], 1)[0].record["n_tokens"] == 900
        assert row["answer"] in row["prompt"]


def test_neighbours_share_what_stands_before_the_needle(dataset: Any, checkpoint: Path) -> None:
    lm = LongContextLM(
        path=str(checkpoint), dtype="float32", method=dict(type="full", chunk_size=64)
    )
    rows = [r for r in rows_of(dataset) if r["repeat"] == 0]
    rows.append({**rows[1], "prompt": rows[1]["prompt"].replace(rows[1]["answer"], "0000000")})
    reused = [lm.run([Sample(r["prompt"])], 1)[0].record["reused_tokens"] for r in rows]
    assert reused[0] == 0
    assert reused[2] > 900 * 0.4


def score(dataset: Any, predictions: list[str], **change: Any) -> Any:
    evaluator = BenchmarkEvaluator("needle", "magic_number")
    fields = dict(
        predictions=predictions, test_set=dataset.test,
        answer_nll=[1.0, 2.0, 3.0, 6.0], n_tokens=[900] * 4, n_cut=[0] * 4,
    )  # fmt: skip
    return evaluator.evaluate(1, 1, dataset.test, **{**fields, **change})


def test_figures_by_hand(dataset: Any) -> None:
    right = [row["reference"] for row in rows_of(dataset)]
    result = score(dataset, [f" {right[0]}.", "", right[2], ""])
    assert result["accuracy"] == 50.0
    assert result["score"] == 50.0  # an empty answer has no similarity to anything
    assert result["answer_nll"] == 3.0
    assert result["n"] == 4
    assert [d["depth"] for d in result["details"]] == [0, 50, 0, 50]
    assert [d["accuracy"] for d in result["details"]] == [100, 0, 100, 0]


def test_all_right_is_100_and_all_wrong_is_0(dataset: Any) -> None:
    right = [row["reference"] for row in rows_of(dataset)]
    assert score(dataset, right)["score"] == 100.0
    assert score(dataset, [""] * 4)["accuracy"] == 0.0


def test_mismatched_counts_and_repeats_are_refused(dataset: Any) -> None:
    with pytest.raises(ConfigError, match="3 predictions for 4"):
        score(dataset, ["", "", ""])
    with pytest.raises(ConfigError, match="repeats"):
        BenchmarkEvaluator("needle", "magic_number").evaluate(1, 2, dataset.test)


def test_a_small_haystack_is_an_error(checkpoint: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.txt"
    small.write_text("Too short. By far.", encoding="utf-8")
    with pytest.raises(DataError, match="haystack"):
        BenchmarkDataset.load(
            "needle",
            "magic_number",
            tokenizer=str(checkpoint),
            length=900,
            depths=[50],
            repeats=1,
            haystack=str(small),
        )
