"""What every task must give, whatever its rule."""

from __future__ import annotations

import random
import subprocess
import sys
from contextlib import contextmanager

import pytest
from task_samples import perfect, reference

from reattention_eval.benchmarks import find_benchmark
from reattention_eval.benchmarks.scored import check_libraries
from reattention_eval.errors import ConfigError, DataError, MachineError
from reattention_eval.evaluators import libraries, list_tasks, main_metric, score

TASKS = [
    (benchmark, task)
    for benchmark in ("longbench", "leval", "infinitebench")
    for task in list_tasks()[benchmark]
]


def test_the_benchmarks_are_whole():
    counts = {benchmark: len(tasks) for benchmark, tasks in list_tasks().items()}
    assert (counts["longbench"], counts["leval"], counts["infinitebench"]) == (21, 20, 12)


@pytest.fixture(params=TASKS, ids=[f"{benchmark}-{task}" for benchmark, task in TASKS])
def samples(request):
    benchmark, task = request.param
    rng = random.Random(f"{benchmark}/{task}")
    return benchmark, task, [reference(benchmark, task, rng) for _ in range(30)]


def test_a_perfect_prediction_scores_100(samples):
    benchmark, task, references = samples
    figures = score(benchmark, task, [perfect(task, wanted) for wanted in references], references)
    assert figures == pytest.approx(dict.fromkeys(figures, 100.0))
    assert main_metric(benchmark, task) in figures


@pytest.mark.parametrize("nothing", ["", "\n"])
def test_no_answer_scores_0(samples, nothing):
    benchmark, task, references = samples
    figures = score(benchmark, task, [nothing] * len(references), references)
    assert figures == dict.fromkeys(figures, 0.0)


def test_half_of_the_answers_score_half(samples):
    benchmark, task, references = samples
    answers = [perfect(task, wanted) if i < 15 else "" for i, wanted in enumerate(references)]
    figures = score(benchmark, task, answers, references)
    assert figures == pytest.approx(dict.fromkeys(figures, 50.0))


def test_main_metric_is_one_of_the_figures_under_both_rules(samples):
    benchmark, task, references = samples
    if task in ("codeU", "sci_fi"):
        return
    answers = [perfect(task, wanted) for wanted in references]
    figures = score(benchmark, task, answers, references, scoring="opencompass")
    assert main_metric(benchmark, task, "opencompass") in figures


@pytest.mark.parametrize("task", ["codeU", "sci_fi"])
def test_tasks_that_opencompass_leaves_out(task):
    with pytest.raises(ConfigError, match="use 'official'"):
        score("leval", task, ["a"], ["a"], scoring="opencompass")
    with pytest.raises(ConfigError, match=f"leval/{task} has no scoring 'opencompass'"):
        main_metric("leval", task, "opencompass")


def test_class_tasks_need_their_classes():
    with pytest.raises(DataError, match="give the raw row"):
        score("longbench", "trec", ["House"], [["House"]])


def test_choices_need_their_options():
    with pytest.raises(DataError, match="'answer' and 'options'"):
        score("infinitebench", "code_debug", ["A"], [{"answer": ["fit"], "options": ["save"]}])


def test_the_room_loads_without_the_scoring_libraries():
    code = "import sys, reattention_eval.evaluators; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    optional = {"jieba", "rouge", "rouge_score", "rapidfuzz", "opencompass", "mmengine"}
    assert not optional & set(run.stdout.split())


@contextmanager
def without(*names):
    """Libraries of scorers that cannot be imported."""
    caches = (libraries._jieba, libraries._rouge, libraries._rouge_score)
    for cache in caches:
        cache.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            for module in [m for m in sys.modules if m.split(".")[0] == name] or [name]:
                patch.setitem(sys.modules, module, None)
        yield
    for cache in caches:
        cache.cache_clear()


def test_a_missing_library_is_named():
    with (
        without("jieba"),
        pytest.raises(MachineError, match=r"'jieba'.*pip install 'reattention-eval\[scoring\]'"),
    ):
        score("longbench", "multifieldqa_zh", ["我们"], [["我们"]])


@pytest.mark.parametrize("rule", ["official", "opencompass"])
def test_a_task_says_which_libraries_it_is_scored_with(samples, rule):
    """With these alone it is scored; without one of them it is not, nor is it 0."""
    benchmark, task, references = samples
    known = find_benchmark(benchmark)
    if task not in known.rules[rule]:
        return
    needed = known.rules[rule][task].libraries
    every = {libraries.JIEBA, libraries.ROUGE, libraries.ROUGE_SCORE, libraries.RAPIDFUZZ}
    answers = [perfect(task, wanted) for wanted in references]
    with without(*every - set(needed)):
        assert score(benchmark, task, answers, references, rule)
        check_libraries(known, task, rule)
    for name in needed:
        with without(name):
            with pytest.raises(MachineError, match=f"'{name}'"):
                score(benchmark, task, answers, references, rule)
            with pytest.raises(MachineError, match=f"'{name}'"):
                check_libraries(known, task, rule)
