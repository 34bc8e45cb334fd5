"""scoring="opencompass" against OpenCompass: its configurations, loaders, and evaluators."""

from __future__ import annotations

import random
from typing import Any

import pytest
from answer_pairs import chinese, choice, number, text
from opencompass.datasets.infinitebench.utils import InfiniteBench_first_number_postprocess
from opencompass.datasets.leval.leval_gsm100 import gsm100_postprocess
from opencompass.utils import text_postprocessors as released
from opencompass_peer import dataset_config, opencompass_score, references_of
from task_samples import prediction, reference

from reattention_eval.benchmarks import find_benchmark
from reattention_eval.evaluators import leval_opencompass, main_metric, opencompass_rules, score
from reattention_eval.evaluators.opencompass_options import first_option

TASKS = [
    (benchmark, task)
    for benchmark in ("longbench", "leval", "infinitebench")
    for task in find_benchmark(benchmark).rules["opencompass"]
]


@pytest.mark.parametrize(("benchmark", "task"), TASKS)
def test_same_figures(benchmark, task, tmp_path):
    rng = random.Random(f"{benchmark}/{task}")
    count = 40 if main_metric(benchmark, task, "opencompass") == "rouge1" else 120
    raw = [reference(benchmark, task, rng) for _ in range(count)]
    predictions = [prediction(task, wanted, rng) for wanted in raw]
    config = dataset_config(benchmark, task)
    rows = [{"instructions": ["?"], "outputs": [r], "input": "text"} for r in raw]
    rows = rows if benchmark == "leval" else raw
    theirs = references_of(config, benchmark, rows, tmp_path)
    # sample by sample where that is cheap
    size = 1 if benchmark == "longbench" else 40
    seen = set()
    for chosen in _batches(range(len(raw)), size):
        answers = [predictions[i] for i in chosen]
        expected = opencompass_score(config, answers, [theirs[i] for i in chosen])
        got = score(benchmark, task, answers, [raw[i] for i in chosen], scoring="opencompass")
        assert got == pytest.approx(expected, abs=1e-9), (answers, [raw[i] for i in chosen])
        seen.add(tuple(got.values()))
    # OpenCompass reads a letter where Code.Run asks for a number
    assert any(figure > 0 for figures in seen for figure in figures) == (task != "code_run")


def test_rouge_of_one_sample():
    answers, wanted = ["the cat sat on mats"], ["the dog sat on mats"]
    expected = opencompass_score(dataset_config("leval", "news_summ"), answers, wanted)
    assert score("leval", "news_summ", answers, wanted, scoring="opencompass") == pytest.approx(
        expected, abs=1e-12
    )


@pytest.mark.parametrize("task", ["passkey", "number_string", "math_find", "kv_retrieval"])
def test_an_answer_in_a_list_is_never_right(task, tmp_path):
    raw: list[dict[str, Any]] = [{**reference("infinitebench", task, random.Random(0))}]
    raw[0]["answer"] = [raw[0]["answer"]]
    answers = [str(raw[0]["answer"][0])]
    config = dataset_config("infinitebench", task)
    theirs = opencompass_score(
        config, answers, references_of(config, "infinitebench", raw, tmp_path)
    )
    ours = score("infinitebench", task, answers, raw, scoring="opencompass")
    assert ours == theirs == dict.fromkeys(ours, 0.0)
    assert score("infinitebench", task, answers, raw) == {"accuracy": 100.0}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (first_option, lambda answer: released.first_option_postprocess(answer, options="ABCD")),
        (opencompass_rules.first_phrase, released.general_postprocess),
        (opencompass_rules.first_number, InfiniteBench_first_number_postprocess),
        (leval_opencompass.first_capital, released.first_capital_postprocess),
        (leval_opencompass.first_options, released.first_capital_postprocess_multi),
        (leval_opencompass.stated_number, gsm100_postprocess),
    ],
)
def test_same_reading_of_an_answer(ours, theirs):
    rng = random.Random(5)
    found = set()
    for _ in range(4000):
        answer = rng.choice((choice, choice, number, text, chinese))(rng)
        if rng.random() < 0.2:
            answer += rng.choice(("", "\n", "。")) + choice(rng)
        found.add(ours(answer))
        assert ours(answer) == theirs(answer), answer
    assert len(found) >= 4


def _batches(indices: range, size: int) -> list[tuple[int, ...]]:
    return [tuple(indices[start : start + size]) for start in range(0, len(indices), size)]
