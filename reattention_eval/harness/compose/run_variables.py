"""Variables that change what a configuration runs, so that nobody edits one for a trial.

REATTENTION_ONLY_MODELS, _ONLY_METHODS, _ONLY_TASKS, _ONLY_LENGTHS choose a part: lists separated
by commas; a method by its type, or with its budget_tokens (snapkv-8192).
REATTENTION_MORE_METHODS adds some, as command lines have them, separated by spaces
(reattention_plus quest:budget_tokens=8192).
REATTENTION_SAMPLES: the first so many samples of each task. REATTENTION_SCORING: official,
opencompass or both. REATTENTION_RUN_MODEL: a folder, a hub id or an embedded model's name instead
of the models.
REATTENTION_LENGTHS, _DEPTHS, _REPEATS and _HAYSTACK stand in for what plans say, where they say it.
An empty variable counts as unset.

With REATTENTION_DRY_RUN configurations can be read, and their jobs listed, without their data.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from reattention_eval.benchmarks import find_benchmark, list_benchmarks
from reattention_eval.benchmarks.base import Benchmark
from reattention_eval.errors import ConfigError, DataError, MachineError
from reattention_eval.harness.compose.embedded_models import replacing_entry, scopes
from reattention_eval.harness.compose.machine import gpus_per_task
from reattention_eval.harness.compose.model_method_pairs import (
    PAPER_LENGTHS,
    folder_context_length,
    model_name,
)
from reattention_eval.methods import build_method, settings_of_text

SCORINGS = ("official", "opencompass", "both")
DRY_RUN = "REATTENTION_DRY_RUN"


def comma_separated(variable: str) -> list[str]:
    """The words of a variable that are separated by commas."""
    return [word.strip() for word in os.environ.get(variable, "").split(",") if word.strip()]


@contextmanager
def variables(**values: str) -> Iterator[None]:
    """Environment variables for the block alone."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def required(check: Callable[..., None], *args: Any, **options: Any) -> None:
    """`check(...)`, which raises DataError where data are missing, or MachineError; nothing then in
    a dry run."""
    if not os.environ.get(DRY_RUN):
        check(*args, **options)
        return
    with suppress(DataError, MachineError):
        check(*args, **options)


def replaced(plan: Mapping[str, Any], takes: Iterable[str]) -> dict[str, Any]:
    """`plan` with what REATTENTION_LENGTHS, _DEPTHS, _REPEATS and _HAYSTACK say of what it
    `takes`.

    Raises:
        ConfigError: a variable that is no list of numbers.
    """
    new: dict[str, Any] = {}
    if lengths := _numbers("REATTENTION_LENGTHS", int):
        new["lengths"] = lengths
    if depths := _numbers("REATTENTION_DEPTHS", float):
        new["depths"] = depths
    if repeats := _numbers("REATTENTION_REPEATS", int):
        new["repeats"] = repeats[0]
    if text := os.environ.get("REATTENTION_HAYSTACK", "").strip():
        local = Path(text).expanduser()
        new["haystack"] = str(local.resolve()) if local.is_file() else text
    return {**plan, **{key: value for key, value in new.items() if key in takes}}


def _numbers(variable: str, kind: Callable[[str], Any]) -> list[Any]:
    try:
        return [kind(word) for word in comma_separated(variable)]
    except ValueError:
        raise ConfigError(
            f"{variable} is {os.environ[variable]!r}; give "
            f"{'whole numbers' if kind is int else 'numbers'} separated by commas."
        ) from None


def chosen_models(
    models: Sequence[Mapping[str, Any]], elsewhere: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """REATTENTION_RUN_MODEL instead of `models`, or those that REATTENTION_ONLY_MODELS names.

    Names `elsewhere` are right though they choose nothing here.

    The replacement keeps the first model's settings but for what belongs to a checkpoint: scopes
    are made to fit its window as the paper's fit theirs.

    Raises:
        ConfigError: no such model.
    """
    path = os.environ.get("REATTENTION_RUN_MODEL", "").strip()
    if path:
        return [_replacement(models[0], path)]
    names = pick("REATTENTION_ONLY_MODELS", [model_name(m) for m in models], (), elsewhere)
    return [dict(model) for model in models if model_name(model) in names]


def with_more_methods(methods: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """And those that REATTENTION_MORE_METHODS names, each once.

    Raises:
        ConfigError: a word that is no method with settings.
    """
    out = list(methods)
    for word in os.environ.get("REATTENTION_MORE_METHODS", "").split():
        try:
            method = settings_of_text(word)
            build_method(method)
        except ConfigError as error:
            raise ConfigError(f"REATTENTION_MORE_METHODS: {error}") from error
        out += [method] if method not in out else []
    return out


def chosen_methods(
    methods: Sequence[Mapping[str, Any]], elsewhere: Iterable[str] = ()
) -> list[Mapping[str, Any]]:
    """The methods that REATTENTION_ONLY_METHODS names, see `method_words` (`elsewhere` as above).

    Raises:
        ConfigError: no such method.
    """
    words = dict.fromkeys(word for method in methods for word in method_words(method))
    names = {*pick("REATTENTION_ONLY_METHODS", list(words), (), elsewhere)}
    return [method for method in methods if names & {*method_words(method)}]


def method_words(method: Mapping[str, Any]) -> list[str]:
    """What a method is named by: its type, and type-budget where it gives `budget_tokens`."""
    kind, budget = str(method["type"]), method.get("budget_tokens")
    return [kind, f"{kind}-{budget}"] if budget else [kind]


def chosen_lengths(lengths: Sequence[int]) -> list[int]:
    """The lengths that REATTENTION_ONLY_LENGTHS names; how, says `length_names`.

    A word that names none of them chooses nothing here: a configuration has several plans.
    `check_lengths` finds words that name nothing anywhere.
    """
    wanted = {word.casefold() for word in comma_separated("REATTENTION_ONLY_LENGTHS")}
    return [n for n in lengths if not wanted or wanted & length_names(n)]


def check_lengths(lengths: Iterable[int]) -> None:
    """Raise ConfigError if REATTENTION_ONLY_LENGTHS has a word that names none of `lengths`."""
    known = sorted(set(lengths))
    named = {word for length in known for word in length_names(length)}
    unknown = [w for w in comma_separated("REATTENTION_ONLY_LENGTHS") if w.casefold() not in named]
    if unknown:
        raise ConfigError(
            f"REATTENTION_ONLY_LENGTHS names {', '.join(unknown)}; this configuration has "
            f"{', '.join(map(str, known))}."
        )


def length_names(length: int) -> set[str]:
    """How a length may be written: 31500 and 32k, 32000 and 32k, 32768 and 32k, 1000000 and 1m."""
    words = {str(length)}
    words |= {label.casefold() for label, tokens in PAPER_LENGTHS.items() if tokens == length}
    for letter, kilo in (("k", 1000), ("k", 1024), ("m", 1000**2), ("m", 1024**2)):
        if length % (kilo // 4) == 0:  # 1.25m is a length of the paper
            words.add(f"{length / kilo:g}{letter}")
    return words


def chosen_tasks(benchmark: Benchmark, default: str | Sequence[str]) -> list[str]:
    """The tasks that REATTENTION_ONLY_TASKS names by themselves or by group, else the default.

    Tasks and groups of other benchmarks choose nothing here, so that one variable serves a
    configuration of several benchmarks.

    Args:
        default: a group's name or tasks.

    Raises:
        ConfigError: no such task or group.
    """
    every, groups = list(benchmark.tasks), benchmark.groups()
    planned = [default] if isinstance(default, str) else list(default)
    wanted = comma_separated("REATTENTION_ONLY_TASKS")
    names = _named(every, groups, planned, ())
    if wanted:
        asked = _named(every, groups, wanted, _words_elsewhere(benchmark.name))
        names = names & asked if benchmark.plan_has_tasks else asked
    return [name for name in every if name in names]


def _named(
    every: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    words: Sequence[str],
    elsewhere: Iterable[str],
) -> set[str]:
    fold: dict[str, Sequence[str]] = {name.casefold(): [name] for name in every}
    fold |= {name.casefold(): tasks for name, tasks in groups.items()}
    others = {word.casefold() for word in elsewhere}
    unknown = [w for w in words if w.casefold() not in fold and w.casefold() not in others]
    if unknown:
        near = [n for w in unknown for n in get_close_matches(w.casefold(), {*fold, *others})]
        meant = f" (did you mean {', '.join(near)}?)" if near else ""
        raise ConfigError(
            f"there is no task {', '.join(unknown)}{meant}; there are here the tasks "
            f"{', '.join(every)} and the groups {', '.join(groups)}."
        )
    return {task for word in words for task in fold.get(word.casefold(), ())}


def sample_limit() -> int | None:
    """REATTENTION_SAMPLES; None for every sample.

    Raises:
        ConfigError: no number from 1 on.
    """
    words = os.environ.get("REATTENTION_SAMPLES", "").strip()
    if not words:
        return None
    if not words.isdecimal() or int(words) < 1:
        raise ConfigError(f"REATTENTION_SAMPLES is {words!r}; give a number from 1 on.")
    return int(words)


def chosen_scoring(default: str = "official") -> str:
    """REATTENTION_SCORING, else the default.

    Raises:
        ConfigError: no such scoring.
    """
    scoring = os.environ.get("REATTENTION_SCORING", "").strip() or default
    if scoring not in SCORINGS:
        raise ConfigError(f"REATTENTION_SCORING is {scoring!r}; choose from {', '.join(SCORINGS)}.")
    return scoring


def pick(
    variable: str,
    known: Sequence[str],
    also: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    elsewhere: Iterable[str] = (),
) -> list[str]:
    """Those of `known` that the variable names, in the order of `known`; all if it is unset.

    Args:
        also: further words for some of them, written in any case.
        elsewhere: names that are right though not among `known`: they choose nothing here.

    Raises:
        ConfigError: a name that does not exist; the sentence lists those that do.
    """
    wanted = comma_separated(variable)
    if not wanted:
        return list(known)
    fold = {name.casefold(): name for name in known}
    fold |= {word.casefold(): name for word, name in dict(also).items()}
    others = {name.casefold() for name in elsewhere}
    unknown = [w for w in wanted if w.casefold() not in fold and w.casefold() not in others]
    if unknown:
        raise ConfigError(
            f"{variable} names {', '.join(unknown)}; this configuration has {', '.join(known)}."
        )
    names = {fold[word.casefold()] for word in wanted if word.casefold() in fold}
    return [name for name in known if name in names]


def _words_elsewhere(benchmark: str) -> Iterator[str]:
    for name in list_benchmarks():
        if name != benchmark:
            other = find_benchmark(name)
            yield from (name, *other.tasks, *other.groups())


def _replacement(model: Mapping[str, Any], path: str) -> dict[str, Any]:
    placed = ("device_map", "tensor_parallel", "window", "method_settings")
    kept = {key: value for key, value in model.items() if key not in placed}
    if entry := replacing_entry(path):
        return {**kept, "dtype": "auto", **entry}
    local = Path(path).expanduser()
    path = str(local.resolve()) if local.is_dir() else path
    window = folder_context_length(path) or model.get("window")
    return {
        **kept,
        "path": path,
        "abbr": Path(path.rstrip("/")).name,
        "dtype": "auto",
        "run_cfg": {"num_gpus": gpus_per_task()},
        **({"window": window, "method_settings": scopes(int(window))} if window else {}),
    }
