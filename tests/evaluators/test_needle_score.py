from __future__ import annotations

import random

import pytest

from reattention_eval.benchmarks import find_benchmark
from reattention_eval.benchmarks.base import Answer
from reattention_eval.errors import ConfigError, DataError
from reattention_eval.evaluators import list_tasks, score
from reattention_eval.evaluators.text import edit_distance, edit_similarity


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [
        ("", "", 0),
        ("", "abc", 3),
        ("kitten", "sitting", 3),
        ("flaw", "lawn", 2),
        ("intention", "execution", 5),
        ("abc", "abc", 0),
        ("ab", "ba", 2),
    ],
)
def test_edit_distance_of_textbook_pairs(first, second, distance):
    assert edit_distance(first, second) == distance
    assert edit_distance(second, first) == distance


def test_edit_distance_against_the_plain_recursion():
    def plain(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(plain(a[1:], b) + 1, plain(a, b[1:]) + 1, plain(a[1:], b[1:]) + (a[0] != b[0]))

    rng = random.Random(0)
    for _ in range(60):
        a, b = ("".join(rng.choices("abc", k=rng.randrange(6))) for _ in range(2))
        assert edit_distance(a, b) == plain(a, b)


def test_edit_similarity():
    assert edit_similarity("", "") == 1.0
    assert edit_similarity("kitten", "sitting") == pytest.approx(4 / 7)


def test_numbers_worked_by_hand():
    predictions = [" 1234567.", "1234560", "I do not know", ""]
    # right; 1 of 7 digits off: 20 * 6/7; nothing in common and 10 characters: 0; empty: 0
    expected = (100 + 20 * 6 / 7 + 0 + 0) / 4
    got = score("needle", "magic_number", predictions, ["1234567"] * 4)
    assert got == pytest.approx({"accuracy": 25.0, "score": expected})


def test_needlebench_form_of_the_reference():
    whole = "It is to sit in the park."  # 19 characters without white space
    predictions = ["One could sit in the park.", "It is to sit in the bark."]
    got = score("needle", "sentence", predictions, [f"{whole}*sit in the park"] * 2)
    assert got == pytest.approx({"accuracy": 50.0, "score": (100 + 20 * 18 / 19) / 2})


def test_key_phrase_counts_only_as_written():
    got = score("needle", "passkey", ["12 345"], ["12345"])
    # not contained, yet the same without white space
    assert got == {"accuracy": 0.0, "score": 20.0}


def test_against_the_released_evaluator():
    pytest.importorskip("opencompass")
    from opencompass.datasets.needlebench.origin import NeedleBenchOriginEvaluator

    rng = random.Random(1)
    sentence = "the best thing to do in San Francisco is eat a sandwich and sit"
    words = sentence.split()
    predictions = [" ".join(rng.choices(words, k=rng.randrange(12))) for _ in range(80)]
    references = [" ".join(rng.choices(words, k=6)) + "*" + rng.choice(words) for _ in range(80)]
    released = NeedleBenchOriginEvaluator().score(predictions, references)["score"]
    assert score("needle", "sentence", predictions, references)["score"] == pytest.approx(released)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            ("needel", "passkey", ["a"], ["a"]),
            "no benchmark 'needel'; choose from longbench, longbench_v2, leval, .*needle, ruler",
        ),
        (("needle", "x", ["a"], ["a"]), "no task 'x'; choose from magic_number, passkey, sentence"),
        (("needle", "passkey", ["a"], ["a"], "mine"), "no scoring of needle 'mine'.*official"),
    ],
)
def test_unknown_names_are_answered_with_those_that_exist(call, words):
    with pytest.raises(ConfigError, match=words):
        score(*call)


@pytest.mark.parametrize(("predictions", "references"), [([], []), (["a"], ["a", "b"])])
def test_missing_samples_are_an_error(predictions, references):
    with pytest.raises(DataError, match="predictions for"):
        score("needle", "passkey", predictions, references)


@pytest.mark.parametrize(
    ("task", "prediction", "reference"),
    [
        ("needle/passkey", "a", " "), ("needle/passkey", None, "a"), ("ruler/vt", "a", []),
        ("ruler/vt", "a", ["a", ""]), ("ruler/qa_1", "a", [""]), ("needle/parallel", "a", "a*#0*9"),
        ("longbench/qasper", "a", [""]), ("leval/coursera", "a", ""),
        ("infinitebench/kv_retrieval", "a", [[]]),
    ],
)  # fmt: skip
def test_a_right_answer_that_every_prediction_holds_is_an_error(task, prediction, reference):
    with pytest.raises(DataError, match="sample"):
        score(*task.split("/"), ["a", prediction], [reference or "a", reference])


def test_a_right_answer_is_a_word_and_not_its_letters():
    assert score("ruler", "niah_single_1", ["alpha beta"], ["gamma"]) == {"score": 0.0}
    assert score("ruler", "qa_1", ["the gamma", "alpha"], ["gamma", "beta"]) == {"score": 50.0}


def test_a_benchmark_with_a_blank_answer_is_an_error():
    row = dict(length=9, index=0, reference=[""], depth=0, repeat=0)
    for name, task in (("ruler", "vt"), ("needle", "passkey")):
        blank = {**row, "reference": ""} if name == "needle" else row
        with pytest.raises(DataError, match="every prediction holds"):
            find_benchmark(name).result(task, [blank], [Answer("said", 9, 0)], "official")


def test_list_tasks():
    assert {"magic_number", "passkey", "sentence"} <= set(list_tasks()["needle"])
