"""The jobs of an evaluation: a model with method on a task of a benchmark at a length.

One list, of which the configuration of OpenCompass (`evaluation`) and the run without it
(`standalone`) are two ways to do it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reattention_eval.benchmarks import find_benchmark
from reattention_eval.benchmarks.base import Asked, Benchmark
from reattention_eval.benchmarks.scored import check_libraries
from reattention_eval.errors import ConfigError
from reattention_eval.harness.compose.model_method_pairs import (
    HASH_LENGTH,
    all_different,
    model_method_pairs,
    model_name,
)
from reattention_eval.harness.compose.old_variables import check_old_variables
from reattention_eval.harness.compose.run_variables import (
    check_lengths,
    chosen_lengths,
    chosen_methods,
    chosen_models,
    chosen_scoring,
    chosen_tasks,
    method_words,
    replaced,
    required,
    sample_limit,
    with_more_methods,
)
from reattention_eval.harness.fingerprint import digest
from reattention_eval.report.fields import is_count

# what a plan says to this function, and not to its benchmark
_OWN = ("benchmark", "models", "methods", "lengths", "cut_at_window")
_SAID_ELSEWHERE = ("chat_template", "samples")  # to `ask`, where the plan does not


@dataclass(frozen=True)
class Job:
    """One cell of the tables.

    Args:
        model: an entry of `model_method_pairs`.
        benchmark: what `find_benchmark` is asked for.
        dataset: names what is asked, in every file and folder.
    """

    model: Mapping[str, Any]
    benchmark: str
    asked: Asked
    dataset: str

    @property
    def names(self) -> tuple[str, str]:
        """(model with method, dataset), as tables and folders call them."""
        return str(self.model["abbr"]), self.dataset


def plan_jobs(
    models: Sequence[Mapping[str, Any]],
    methods: Sequence[Mapping[str, Any]],
    plans: Sequence[Mapping[str, Any]],
) -> list[Job]:
    """Every job of `plans`, each once, plan by plan and model by model.

    A plan is `dict(benchmark=..., lengths=[...], tasks=...)` with further options of its
    benchmark's `ask`. Three keys are for here: `models` and `methods` stand in for those of the
    call, and `cut_at_window` (see `model_method_pairs`) is on where a length is what prompts are
    cut to, and off where prompts are made to measure.

    The variables of `run_variables` choose a part, and add methods to those of the call.

    Raises:
        ConfigError: a plan, variable or setting that cannot work, or nothing left to run.
        DataError: a data file is not on this machine.
        MachineError: nor a library that the answers are scored with.
    """
    check_old_variables()
    for entries in (models, methods):
        _check_entries(entries)
    methods = with_more_methods(methods)
    plans = [_with_variables(plan) for plan in plans]
    known_models = [model_name(m) for plan in plans for m in plan.get("models", models)]
    known_methods = [
        word for plan in plans for m in plan.get("methods", methods) for word in method_words(m)
    ]
    check_lengths(length for plan in plans for length in plan["lengths"])
    jobs: dict[tuple[str, str], Job] = {}
    for plan in plans:
        benchmark = find_benchmark(plan["benchmark"])
        own = chosen_models(plan.get("models", models), known_models)
        ways = chosen_methods(plan.get("methods", methods), known_methods)
        cut = plan.get("cut_at_window", benchmark.cuts)
        for model in model_method_pairs(own, ways, cut_at_window=cut):
            jobs |= {job.names: job for job in _of_model(model, benchmark, plan)}
    if not jobs:
        raise ConfigError(
            "nothing is left to run: a list of models, methods, tasks or lengths is empty, or the "
            "REATTENTION_ONLY_* variables choose none that go together; unset one of them."
        )
    return list(jobs.values())


def _with_variables(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The plan with what variables put in its place, and nothing in it that nobody reads."""
    name = plan.get("benchmark")
    if not isinstance(name, str):
        raise ConfigError(f"a plan has the benchmark {name!r}; give the name of one.")
    takes = _options(find_benchmark(name))
    needs = ["lengths", *(option for option, needed in takes.items() if needed)]
    unknown = [key for key in plan if key not in (*takes, *_OWN)]
    missing = [key for key in needs if key not in plan]
    if unknown or missing:
        wrong = f"has {', '.join(unknown)}, which nothing reads"
        raise ConfigError(
            f"a plan of {name} {wrong if unknown else 'has no ' + ', '.join(missing)}; it needs "
            f"{', '.join(needs)} and may have {', '.join(sorted({*takes, *_OWN} - {*needs}))}."
        )
    plan = replaced(plan, (*takes, "lengths"))
    _check_counts(name, plan)
    for key in ("models", "methods"):
        _check_entries(plan.get(key, ()))
    return plan


def _check_counts(name: str, plan: Mapping[str, Any]) -> None:
    lengths = plan["lengths"]
    if not isinstance(lengths, Sequence) or not all(map(_is_count, lengths)):
        raise ConfigError(f"a plan of {name} has lengths {lengths!r:.80}; give [4096, 8192, ...].")
    for key in ("samples", "repeats", "max_out_len"):
        if plan.get(key) is not None and not _is_count(plan[key]):
            raise ConfigError(
                f"a plan of {name} has {key} {plan[key]!r:.80}; give a whole number from 1 on."
            )


def _is_count(value: Any) -> bool:
    return is_count(value) and value > 0


def _check_entries(entries: Any) -> None:
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise ConfigError(
                f"models and methods are dictionaries, as dict(type='full') and dict(path='...'); "
                f"found {entry!r:.80}."
            )
        if not {"type", "path"} & set(entry):
            raise ConfigError(
                f"{dict(entry)!r:.80} says no type of a method and no path of a model."
            )


def _options(benchmark: Benchmark) -> dict[str, bool]:
    """What a plan may say to the benchmark, and whether it has to: the keywords of its `ask`, and
    of those it extends."""
    named = {
        parameter.name: (
            parameter.default is parameter.empty and parameter.name not in _SAID_ELSEWHERE
        )
        for kind in reversed(type(benchmark).__mro__)
        if "ask" in vars(kind)
        for parameter in inspect.signature(vars(kind)["ask"]).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name != "scoring"
    }
    return {**named, "style" if benchmark.plan_has_tasks else "tasks": False}


def _of_model(
    model: Mapping[str, Any], benchmark: Benchmark, plan: Mapping[str, Any]
) -> Iterator[Job]:
    options = {key: value for key, value in plan.items() if key not in _OWN}
    default = benchmark.default_tasks(options)
    tasks = chosen_tasks(benchmark, default)
    lengths = chosen_lengths(plan["lengths"])
    if benchmark.cuts:
        lengths = _different(lengths, model.get("max_prompt_tokens"))
    options["samples"] = sample_limit() or options.get("samples")
    if options.get("chat_template") is None:
        options["chat_template"] = bool(model.get("chat_template", False))
    names = []
    for length in lengths:
        for task in tasks:
            required(benchmark.check, task, length, **options)
            asked = benchmark.ask(task, length, scoring=chosen_scoring(), **options)
            mark = digest(asked.identity)[:HASH_LENGTH]
            required(check_libraries, benchmark, task, asked.scoring)
            names.append(f"{asked.benchmark}-{task}-{length}-{mark}")
            yield Job(model, str(plan["benchmark"]), asked, names[-1])
    all_different(names, "task and length")


def _different(lengths: Sequence[int], cut: int | None) -> list[int]:
    """Lengths of which a model's own `max_prompt_tokens` makes none equal to another."""
    if cut is None:
        return list(lengths)
    below = [length for length in lengths if length < cut]
    beyond = [length for length in lengths if length >= cut]
    return below + beyond[:1]
