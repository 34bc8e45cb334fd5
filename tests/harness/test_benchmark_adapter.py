"""LongBench, L-Eval and InfiniteBench through the dataset, the runner and the evaluator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_benchmarks import RAW_BENCHMARKS, load_rows, perfect, write_benchmarks
from tiny_tokenizers import tiny_tokenizer

from reattention_eval.benchmarks.base import Answer
from reattention_eval.benchmarks.scored import rules_for
from reattention_eval.errors import ConfigError
from reattention_eval.harness import BenchmarkDataset, BenchmarkEvaluator, LongContextLM, Sample

TASKS = [(b.name, task) for b in RAW_BENCHMARKS.values() for task in b.tasks]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _data_dir(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REATTENTION_DATA", str(data))


def result(
    benchmark: str, task: str, predictions: list[str], scoring: str = "official"
) -> dict[str, Any]:
    rows = load_rows(benchmark, task)
    answers = [Answer(text, 7, 7) for text in predictions]
    return RAW_BENCHMARKS[benchmark].result(task, rows, answers, scoring)


def perfect_predictions(benchmark: str, task: str) -> list[str]:
    out = []
    for row in load_rows(benchmark, task):
        answer = perfect(benchmark, task, row["reference"])
        if task == "sci_fi":  # each of the two prompts has its own half
            answer = answer.rstrip("]").split(" [fact: ")[row["part"]]
        out.append(answer)
    return out


@pytest.mark.parametrize(("benchmark", "task"), TASKS)
def test_a_perfect_prediction_scores_100_and_an_empty_one_0(benchmark: str, task: str) -> None:
    right = perfect_predictions(benchmark, task)
    found = result(benchmark, task, right)
    assert found["score"] == pytest.approx(100.0, abs=0.01)
    assert result(benchmark, task, [""] * len(right))["score"] == 0.0
    assert all(
        d["score"] == pytest.approx(100.0, abs=0.01) for d in found["details"] if "score" in d
    )


def test_samples_for_judges_count_for_opencompass_alone() -> None:
    right = perfect_predictions("leval", "gov_report_summ")
    both = result("leval", "gov_report_summ", right, "both")
    assert both["n"] == 4
    assert len(both["details"]) == 6
    assert [("score" in d, "opencompass_score" in d) for d in both["details"]] == [
        (True, True), (True, True), (True, True), (True, True), (False, True), (False, True),
    ]  # fmt: skip
    assert both["opencompass_score"] == pytest.approx(100.0, abs=0.01)


def test_one_scoring_never_stands_under_the_others_name() -> None:
    right = perfect_predictions("longbench", "qasper")
    assert set(result("longbench", "qasper", right)) == {"score", "f1", "n", "details"}
    assert set(result("longbench", "qasper", right, "opencompass")) == {
        "opencompass_score", "n", "details",
    }  # fmt: skip
    assert rules_for(RAW_BENCHMARKS["leval"], "codeU", "opencompass") == ["official"]
    assert rules_for(RAW_BENCHMARKS["leval"], "tpo", "both") == ["official", "opencompass"]


def test_half_right_is_half() -> None:
    rows = load_rows("infinitebench", "longbook_qa_eng")
    found = result("infinitebench", "longbook_qa_eng", ["the fox", "", ""])
    assert found["score"] == pytest.approx(100 / 3)
    assert [d["sample"] for d in found["details"]] == [0, 1, 2]
    assert [d["document"] for d in found["details"]] == [0, 1, 0]
    assert [row["sample"] for row in rows] == [0, 2, 1]  # the order in which they were run


def test_mismatched_counts_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 predictions for 2"):
        result("longbench", "qasper", [""])


def test_the_dataset_keeps_references_of_any_shape() -> None:
    for benchmark, task in (("infinitebench", "math_calc"), ("longbench", "trec")):
        dataset = BenchmarkDataset(
            reader_cfg={"input_columns": ["prompt"], "output_column": "reference"},
            benchmark=benchmark,
            task=task,
        )
        rows = load_rows(benchmark, task)
        assert [json.loads(r) for r in dataset.test["reference"]] == [r["reference"] for r in rows]
        found = BenchmarkEvaluator(benchmark, task).evaluate(
            1, 1, dataset.test,
            predictions=perfect_predictions(benchmark, task), test_set=dataset.test,
            answer_nll=[None] * len(rows), n_tokens=[9] * len(rows), n_cut=[0] * len(rows),
        )  # fmt: skip
        assert found["score"] == 100.0
    with pytest.raises(ConfigError, match="n=2"):
        BenchmarkEvaluator("longbench", "trec").evaluate(1, 2, None)


def test_documents_are_read_once(checkpoint: Path) -> None:
    lm = LongContextLM(
        path=str(checkpoint), dtype="float32", method=dict(type="full", chunk_size=64)
    )
    rows = load_rows("leval", "scientific_qa")
    samples = [Sample(r["prompt"], r["answer_prefix"], system=r["system"]) for r in rows]
    together = [lm.run([sample], 8)[0] for sample in samples]
    reused = [output.record["reused_tokens"] for output in together]
    tokens = [output.record["n_tokens"] for output in together]
    for i, row in enumerate(rows):
        if i and rows[i - 1]["document"] == row["document"]:
            assert reused[i] > 0.8 * min(tokens[i - 1 : i + 1])
        else:
            assert reused[i] < 200  # the system text that all share
    for sample, output in zip(samples, together, strict=True):
        lm.session.reset()
        assert lm.run([sample], 8)[0].text == output.text


def test_the_system_text_is_a_turn_or_opens_the_prompt(checkpoint: Path) -> None:
    lm = LongContextLM(path=str(checkpoint), dtype="float32")
    row = load_rows("leval", "tpo")[0]
    ask = dict(prompt=row["prompt"], answer_prefix=row["answer_prefix"], system=row["system"])

    def text(**change: Any) -> str:
        ids = lm._prepare(Sample(**ask, **change), None).input_ids
        return str(lm.tokenizer.decode(ids))

    assert text(chat_template=False) == row["system"] + row["prompt"] + "\nAnswer:"
    turns = text(chat_template=True)
    assert turns.startswith("<|im_start|>system\n" + row["system"][:40])
    assert turns.endswith("<|im_start|>assistant\n\nAnswer:")


def test_an_answer_ends_at_the_first_line_that_holds_text(checkpoint: Path) -> None:
    from reattention_eval.harness.text import cut_at_stop, stop_rule

    assert cut_at_stop("\n\nA summary.\nDialogue: more", ["\n"]) == "\n\nA summary."
    assert cut_at_stop("A summary.", ["\n"]) == "A summary."
    tokenizer = LongContextLM(path=str(checkpoint), tokenizer_only=True).tokenizer
    rule = stop_rule(tokenizer, ["\n"])
    assert rule is not None
    words = ["\n", "\nthe dog", "\nthe dog\n"]
    ids = [tokenizer(w, add_special_tokens=False)["input_ids"] for w in words]
    assert [rule(i) for i in ids] == [False, False, True]


def test_a_stop_word_is_found_whatever_stands_before_it() -> None:
    """Token by token as in all of the text, in time that does not grow with it."""
    from reattention_eval.harness.text import cut_at_stop, stop_rule

    tokenizer = tiny_tokenizer()
    decoded: list[int] = []

    class Counting:
        def decode(self, ids: list[int], **keywords: Any) -> str:
            decoded.append(len(ids))
            return str(tokenizer.decode(ids, **keywords))

    text = "\n" * 90 + "über the quick brown fox jumps " * 30 + "Ωmega\n\nQ: " + "dog " * 20
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    for words in (["\n"], ["ega\n\nQ"], ["Ω", "\n\n"], ["never"], ["mind", "dog dog "]):
        rule = stop_rule(Counting(), words)
        assert rule is not None
        whole = [tokenizer.decode(ids[:n]) for n in range(1, len(ids) + 1)]
        want = next((n for n, t in enumerate(whole, 1) if cut_at_stop(t, words) != t), None)
        found = next((n for n in range(1, len(ids) + 1) if rule(ids[:n])), None)
        assert found == want
    decoded.clear()
    assert not rule([300] * 20_000)
    assert sum(decoded) < 200
