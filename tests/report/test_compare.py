"""Two runs held against each other: the figures against independent ones, and what is refused."""

from __future__ import annotations

import itertools
import json
import random
from math import comb, sqrt
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from typer.testing import CliRunner
from written_run import FULL, HOSTILE, OURS, put, write_cell

from reattention_eval.cli import app
from reattention_eval.errors import ConfigError
from reattention_eval.report.compare import compare_runs
from reattention_eval.report.paired import difference, mcnemar, newcombe
from reattention_eval.report.problems import find_problems
from reattention_eval.report.run import read_run
from reattention_eval.report.shown import one_line

ANSWERS = ["Paris", "Paris", "Rome", "Rome", "Oslo"]
OTHERS = ["Paris", "Rome", "Paris", "Paris", "Bern"]


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    a, b = tmp_path / "a", tmp_path / "b"
    write_cell(a, FULL, ANSWERS, nll=[1.0, 2.0, 3.0, 4.0, 5.0])
    write_cell(b, OURS, OTHERS, nll=[1.0, 1.0, 4.0, 3.0, 4.0])
    return a, b


def test_every_resample_of_four_pairs() -> None:
    """The bootstrap's interval against all 256 resamples, each as often as any other, as wide as
    four samples need."""
    a, b = [1.0, 5.0, 2.0, 8.0], [2.0, 9.0, 1.0, 20.0]
    deltas = [y - x for x, y in zip(a, b, strict=True)]
    means = [sum(drawn) / 4 for drawn in itertools.product(deltas, repeat=4)]
    found = difference("f1", a, b)
    assert found.mean == pytest.approx(sum(deltas) / 4)
    wider = scipy.stats.t.ppf(0.975, 3) / scipy.stats.norm.ppf(0.975) * sqrt(4 / 3)
    low, high = found.mean + wider * (np.percentile(means, (2.5, 97.5)) - found.mean)
    assert found.low == pytest.approx(low, abs=0.6)
    assert found.high == pytest.approx(high, abs=0.6)
    assert (found.better, found.worse, found.same, found.p) == (3, 1, 0, None)
    assert difference("f1", a, b) == found


def test_many_pairs_meet_their_normal_interval() -> None:
    draw = random.Random(0)
    a = [draw.gauss(50, 10) for _ in range(5001)]
    b = [x + draw.gauss(1, 5) for x in a]
    many, fewer = difference("score", a, b), difference("score", a[:5000], b[:5000])
    assert many.low is not None and many.high is not None and fewer.low is not None
    assert many.low < many.mean < many.high
    assert many.low == pytest.approx(fewer.low, abs=0.03)


def test_pairs_that_are_all_alike() -> None:
    """What was not seen to vary says nothing, but of right and wrong answers how many they are."""
    found = difference("f1", [1.0, 2.0, 3.0], [1.5, 2.5, 3.5])
    assert (found.mean, found.low, found.high) == (0.5, None, None)
    few, many = (difference("score", [100.0] * n, [100.0] * n) for n in (5, 50))
    assert few.low is not None and many.low is not None and few.high is not None
    assert few.low == -few.high < many.low < 0
    won = difference("score", [0.0] * 3, [100.0] * 3)
    assert won.low is not None and 0 < won.low < 60 and won.high == pytest.approx(100)


@pytest.mark.parametrize("shares", [(0.4, 0.2, 0.1, 0.3), (0.05, 0.15, 0.02, 0.78)])
@pytest.mark.parametrize("n", [5, 12, 30])
def test_the_interval_of_two_shares_holds_what_it_says(
    n: int, shares: tuple[float, float, float, float]
) -> None:
    """Over every outcome of n pairs, each as likely as it is."""
    held, true = 0.0, shares[1] - shares[2]
    for both, only_b, only_a in itertools.product(range(n + 1), repeat=3):
        if (neither := n - both - only_b - only_a) < 0:
            continue
        low, high = newcombe(both, only_b, only_a, neither)
        assert -1 <= low <= (only_b - only_a) / n <= high <= 1
        swapped = newcombe(both, only_a, only_b, neither)
        assert swapped == pytest.approx((-high, -low))
        counts = (both, only_b, only_a, neither)
        held += (low <= true <= high) * scipy.stats.multinomial.pmf(counts, n, shares)
    assert 0.93 <= held <= 0.997


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 0), (0, 6), (5, 1), (12, 3), (40, 41)])
def test_mcnemar_counts_every_outcome(better: int, worse: int) -> None:
    n = better + worse
    tails = 2 * sum(comb(n, k) for k in range(min(better, worse) + 1)) / 2**n
    assert mcnemar(better, worse) == pytest.approx(min(1.0, tails))


def test_lower_is_better_for_the_likelihood() -> None:
    found = difference("answer_nll", [1.0, 2.0, 3.0], [0.5, 2.5, 3.0])
    assert (found.better, found.worse, found.same) == (1, 1, 1)


def test_a_run_against_another(runs: tuple[Path, Path]) -> None:
    found = compare_runs(*runs)
    (task,) = found.tasks
    assert (task.a, task.b) == ("Tiny: full", "Tiny: reattention 2,048")
    score, nll = task.differences
    assert (score.metric, score.n, score.a, score.b) == ("score", 5, 40.0, 60.0)
    assert (score.better, score.worse, score.same) == (2, 1, 2)
    assert score.p == pytest.approx(1.0)
    assert (nll.metric, nll.better, nll.worse, nll.same) == ("answer_nll", 3, 1, 1)
    # a loss first, then the gains, then what differs in words alone
    assert [one.a.index for one in task.changed] == [1, 2, 3, 4]
    assert not found.refused


def test_two_methods_of_one_run(tmp_path: Path) -> None:
    write_cell(tmp_path, FULL, ANSWERS)
    write_cell(tmp_path, OURS, OTHERS)
    with pytest.raises(ConfigError, match="name two of its methods by --a and --b"):
        compare_runs(tmp_path, tmp_path)
    with pytest.raises(ConfigError, match=r"no model and method 'h2o'; there are: Tiny: full; Ti"):
        compare_runs(tmp_path, tmp_path, "h2o", "full")
    there, back = (compare_runs(tmp_path, tmp_path, *w) for w in (("full", "rea"), ("rea", "full")))
    assert there.tasks[0].differences[0].mean == -back.tasks[0].differences[0].mean == 20.0


def test_the_same_methods_pair_by_name(tmp_path: Path) -> None:
    for run, answers in (("a", ANSWERS), ("b", OTHERS)):
        for method in (FULL, OURS):
            write_cell(tmp_path / run, method, answers)
    found = compare_runs(tmp_path / "a", tmp_path / "b")
    assert [(task.a, task.b) for task in found.tasks] == [
        ("Tiny: full", "Tiny: full"), ("Tiny: reattention 2,048", "Tiny: reattention 2,048"),
    ]  # fmt: skip


def test_two_prompts_that_are_one_sample_are_compared_as_one(tmp_path: Path) -> None:
    """Of sci_fi the record of the first has its half of the answer, the result the whole."""
    for method, facts in ((FULL, ["False", "False"]), (OURS, ["False", "True"])):
        model, dataset = write_cell(
            tmp_path, method, ["True", "True", *facts], task="sci_fi",
            facts={"benchmark": "leval", "task": "sci_fi"},
        )  # fmt: skip
        scores = [100.0 if fact == "False" else 50.0 for fact in facts]
        details = [
            {"index": i, "sample": i, "document": 0, "reference": "Paris", "score": score,
             "prediction": f"True [fact: {fact}]"}
            for i, (fact, score) in enumerate(zip(facts, scores, strict=True))
        ]  # fmt: skip
        path = tmp_path / "results" / model / f"{dataset}.json"
        put(path, {"score": sum(scores) / 2, "n": 2, "details": details})
    assert find_problems(read_run(tmp_path)) == []
    (task,) = compare_runs(tmp_path, tmp_path, "full", "reattention").tasks
    (one,) = task.differences
    assert (one.n, one.a, one.b, one.better, one.worse) == (2, 100.0, 75.0, 0, 1)
    (changed,) = task.changed
    assert (changed.a.index, changed.b.prediction, changed.delta) == (1, "True [fact: True]", -50.0)


def test_which_of_several_is_asked(tmp_path: Path) -> None:
    for method in (FULL, OURS):
        write_cell(tmp_path / "a", method, ANSWERS)
    for method in (("snapkv", 64), ("h2o", 64)):
        write_cell(tmp_path / "b", method, OTHERS)
    with pytest.raises(ConfigError, match=r"A has Tiny: full and .* choose one of each by --a"):
        compare_runs(tmp_path / "a", tmp_path / "b")


def test_a_label_names_its_method_alone_and_says_what_differs(tmp_path: Path) -> None:
    for aware in (True, False):
        write_cell(tmp_path, ("snapkv", 64), ANSWERS, settings={"query_aware": aware})
    seen, unseen = "snapkv 64", "snapkv 64 (query_aware=False)"
    (task,) = compare_runs(tmp_path, tmp_path, unseen, seen).tasks
    assert (task.a, task.b) == (f"Tiny: {unseen}", f"Tiny: {seen}")
    write_cell(tmp_path, FULL, ANSWERS)
    write_cell(tmp_path, ("native_full", None), OTHERS)
    write_cell(tmp_path, ("native_full", None), OTHERS, task="hotpotqa")
    write_cell(tmp_path, ("snapkv", 64), ANSWERS, task="hotpotqa", settings={"query_aware": True})
    found = compare_runs(tmp_path, tmp_path, "full", seen)
    assert [task.a for task in found.tasks] == ["Tiny: full", "Tiny: native_full"]


def test_a_methods_name_is_not_one_that_begins_so(tmp_path: Path) -> None:
    write_cell(tmp_path, FULL, ANSWERS)
    for name in ("reattention", "reattention_plus"):
        write_cell(tmp_path, (name, 8192), OTHERS)
    for words in ("reattention", "REATTENTION_plus", "_plus"):
        (task,) = compare_runs(tmp_path, tmp_path, "full", words).tasks
        name = "reattention_plus" if "plus" in words else "reattention"
        assert task.b == f"Tiny: {name} 8,192"
    write_cell(tmp_path, ("reattention", 16416), OTHERS, settings={"local_size": 8192})
    with pytest.raises(ConfigError) as found:
        compare_runs(tmp_path, tmp_path, "full", "reattention")
    assert "reattention 8,192 and Tiny: reattention 16,416: choose" in str(found.value)
    assert "plus" not in str(found.value)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"fingerprint": "e" * 64}, "the prompts' fingerprint is 'ffffffffffff' in A and 'eeee"),
        ({"chat_template": False}, "chat_template is True in A and False in B"),
        ({"max_prompt_tokens": 8000}, "max_prompt_tokens is 31500 in A and 8000 in B"),
        ({"scoring": "opencompass"}, "scoring is 'official' in A and 'opencompass' in B"),
        ({"prompts": "short"}, "prompts is None in A and 'short' in B"),
        ({"n": 4}, "n is 5 in A and 4 in B"),
    ],
)
def test_what_was_asked_otherwise_is_refused_by_name(
    runs: tuple[Path, Path], facts: dict[str, object], said: str
) -> None:
    a, b = runs
    write_cell(b, OURS, OTHERS, facts=facts)
    with pytest.raises(ConfigError) as refused:
        compare_runs(a, b)
    assert said in str(refused.value)


def test_the_same_task_under_another_name_is_refused_too(tmp_path: Path) -> None:
    """Another recipe has another abbreviation; benchmark, task and length still pair them."""
    a, b = tmp_path / "a", tmp_path / "b"
    write_cell(a, FULL, ANSWERS)
    write_cell(b, FULL, ANSWERS, facts={"fingerprint": "e" * 64, "prompts": "p"})
    for path in sorted(b.rglob("*abcdef01*")):
        path.write_text(path.read_text().replace("abcdef01", "99999999"))
        path.rename(path.with_name(path.name.replace("abcdef01", "99999999")))
    with pytest.raises(ConfigError, match=r"prompts is None in A and 'p' in B; the prompts' fing"):
        compare_runs(a, b)


def test_another_scoring_of_the_same_answer_is_seen(runs: tuple[Path, Path]) -> None:
    a, b = runs
    write_cell(b, OURS, OTHERS, scores=[50.0, 0.0, 100.0, 100.0, 0.0])
    with pytest.raises(ConfigError, match="same answer to sample 0 has score 100 in A and 50 in B"):
        compare_runs(a, b)


def test_other_tokens_of_one_checkpoint_are_seen(runs: tuple[Path, Path]) -> None:
    a, b = runs
    path = next(b.glob("records/*/*.jsonl"))
    path.write_text(path.read_text().replace(f"{2:064d}", f"{77:064d}"))
    with pytest.raises(ConfigError, match="sample 2 was read as other tokens"):
        compare_runs(a, b)


def test_what_pairs_is_compared_and_the_rest_is_said(runs: tuple[Path, Path]) -> None:
    a, b = runs
    write_cell(a, FULL, ANSWERS, task="musique")
    write_cell(b, OURS, OTHERS, task="musique", facts={"length": 31500, "fingerprint": "0" * 64})
    write_cell(a, FULL, ANSWERS, task="hotpotqa")
    result = CliRunner().invoke(app, ["compare", str(a), str(b)])
    assert result.exit_code == 1
    assert "qasper" in result.output
    assert "not compared" in result.output and "B has no such task" in result.output


def test_failed_samples_are_left_out_and_counted(runs: tuple[Path, Path]) -> None:
    a, b = runs
    model, dataset = "tiny-reattention", "longbench-qasper-31500-abcdef01"
    result = (b / "results" / model / f"{dataset}.json").read_text()
    write_cell(b, OURS, OTHERS, errors={1: "OutOfMemoryError: no room"})
    (b / "results" / model / f"{dataset}.json").write_text(result)
    (task,) = compare_runs(a, b).tasks
    assert task.differences[0].n == 4
    assert task.notes == ["1 samples are not in both, or failed in one, and are left out"]


def test_terminal_and_json(runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    a, b = runs
    write_cell(b, OURS, [HOSTILE, *OTHERS[1:]])
    file = b / "comparison.json"
    result = CliRunner().invoke(app, ["compare", str(a), str(b), "--json", str(file)])
    assert result.exit_code == 0, result.output
    assert "+0.0 [" in result.output and "2 / 2 / 1" in result.output
    for raw in ("\x1b[31m", "\x00", "\u2028", "\u202e"):
        assert raw not in result.output
    assert "\\x1b[31m\\x00\\u2028" in result.output.replace("\n", "")
    told = json.loads(file.read_text())["tasks"][0]
    assert told["differences"][0]["difference"] == 0.0
    assert len(told["changed"]) == 5
    assert told["changed"][0]["answers"] == ["Paris", HOSTILE]


def test_every_character_that_does_something_is_spelled_out() -> None:
    assert one_line("a\tb\nc", 99) == "a\\tb\\nc"
    assert one_line("\x9b31m\u200b\ud800\ufeff", 99) == "\\x9b31m\\u200b\\ud800\\ufeff"
    assert one_line("中文\u3000é", 99) == "中文\u3000é"
    long = one_line("a" * 10_000_000, 30)
    assert long == "a" * 20 + " [... 9,999,970 ...] " + "a" * 10


def test_needles_of_one_prompt_are_one_sample(tmp_path: Path) -> None:
    """Details of several needles a prompt, and details that OpenCompass numbers."""
    for name, share in (("a", 0.0), ("b", 100.0)):
        model, dataset = write_cell(tmp_path / name, FULL, ["x", "y"])
        path = tmp_path / name / "results" / model / f"{dataset}.json"
        details = [
            {"depth": depth, "repeat": repeat, "score": share if depth == 50 else 100.0}
            for repeat in (0, 1)
            for depth in (10, 50)
        ]
        put(path, {"score": (share + 100) / 2, "n": 2, "details": details})
        answers = tmp_path / name / "records" / model / f"{dataset}.jsonl"
        answers.write_text(answers.read_text().replace('"x"', f'"x{share}"').replace(
            '"y"', f'"y{share}"'))  # fmt: skip
    (task,) = compare_runs(tmp_path / "a", tmp_path / "b").tasks
    score = task.differences[0]
    assert (score.n, score.a, score.b, score.better) == (2, 50.0, 100.0, 2)


def test_what_is_unfinished_is_not_called_unscored(tmp_path: Path) -> None:
    write_cell(tmp_path / "a", FULL, ["Paris"] * 3)
    model, dataset = write_cell(tmp_path / "b", FULL, ["Paris"] * 3)
    (tmp_path / "b" / "results" / model / f"{dataset}.json").unlink()
    with pytest.raises(ConfigError, match="B has no result; score it"):
        compare_runs(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "predictions" / model / f"{dataset}.json").unlink()
    records = tmp_path / "b" / "records" / model / f"{dataset}.jsonl"
    records.write_text("".join(records.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(ConfigError, match=r"B is unfinished, 2 of 3 samples are done; go on with"):
        compare_runs(tmp_path / "a", tmp_path / "b")
