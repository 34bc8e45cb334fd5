"""What is wrong with a run, as far as it can be known before a model is loaded."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reattention_eval.benchmarks.needle import check_needles
from reattention_eval.cache import DEVICE
from reattention_eval.checkpoints import check_access, load_model
from reattention_eval.checkpoints.load_checks import check_model
from reattention_eval.checkpoints.quantization import check_named
from reattention_eval.checkpoints.read import local_or_hub, read_config, read_settings
from reattention_eval.engine.fit import check_cache, check_processes, fitting
from reattention_eval.errors import ConfigError, MachineError, ReAttentionError
from reattention_eval.harness.fingerprint import plain
from reattention_eval.harness.model import LongContextLM
from reattention_eval.harness.prompt_runner import PromptRunner
from reattention_eval.methods import Method, build_method
from reattention_eval.report.fields import is_count, is_number

# of an entry, used up before the model is made, or left alone
_OPENCOMPASS = {
    "abbr", "batch_size", "max_out_len", "min_out_len", "pred_postprocessor", "run_cfg",
    "summarizer_abbr", "type",
}  # fmt: skip
_OURS = ("LongContextLM", "ReAttentionCausalLM")


def find_problems(
    jobs: Iterable[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]],
) -> list[str]:
    """One sentence for each thing that cannot work; nothing is loaded but tokenizers.

    What this machine lacks for a method is one where no other method can run (`machine_lacks`).

    Asked are: checkpoints, methods and their settings, chat templates, and what needle tests are
    to be made of. Models of other classes than ours are left to them.

    Args:
        jobs: each model's entry of a configuration, with the datasets that it is to run.
    """
    ask = _Checkpoints()
    found: dict[str, None] = {}
    lacks: dict[str, None] = {}
    others_run = False
    for model, datasets in jobs:
        if not is_ours(model.get("type")):
            others_run = True
            continue
        try:
            _check_model(model, ask)
        except MachineError as error:
            lacks[str(error)] = None
            continue  # its own task says it again
        except ReAttentionError as error:
            found[str(error)] = None
            continue  # its datasets would say the same again
        others_run = True
        for dataset in datasets:
            try:
                _check_dataset(model, dataset, ask)
            except ReAttentionError as error:
                found[str(error)] = None
    return list(found) if others_run or found else list(lacks)


def machine_lacks(jobs: Iterable[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]]) -> str:
    """What `find_problems` lets pass, in one paragraph: methods that fail on this machine while
    the others go on; empty where there are none."""
    found: dict[str, list[str]] = {}
    for model, _ in jobs:
        if is_ours(model.get("type")):
            try:
                _checked_method(model.get("method") or {"type": "full"})
            except MachineError as error:
                found.setdefault(str(error), []).append(str(model.get("abbr")))
    return " ".join(
        f"Not on this machine: {', '.join(names)}: {why} The others go on."
        for why, names in found.items()
    )


class _Checkpoints:
    """Each checkpoint is asked once, however many methods and datasets it has."""

    def __init__(self) -> None:
        self._said: dict[Any, ReAttentionError | Any] = {}

    def access(self, path: str, processes: int) -> None:
        self._once((path, processes), lambda: check_access(path, processes))

    def config(self, path: str) -> Any:
        """Of a model that methods can serve; a copy, which may be changed."""

        def read() -> Any:
            source = local_or_hub(path)
            config = read_config(source, read_settings(source))
            check_model(config, source, None)
            return config

        return copy.deepcopy(self._once(("config", path), read))

    def tokenizer(self, folder: Path) -> Any:
        return self._once(folder, lambda: load_model(folder, tokenizer_only=True)[1])

    def _once(self, key: Any, ask: Callable[[], Any]) -> Any:
        if key not in self._said:
            try:
                self._said[key] = ask()
            except ReAttentionError as error:
                self._said[key] = error
        if isinstance(self._said[key], ReAttentionError):
            raise self._said[key]
        return self._said[key]


def is_ours(kind: Any) -> bool:
    """Whether a configuration's `type` is this package's model, by class or by path."""
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    return name.rpartition(".")[2] in _OURS


def _check_model(model: Mapping[str, Any], ask: _Checkpoints) -> None:
    path, processes = model.get("path"), model.get("tensor_parallel") or 1
    if not isinstance(path, str) or not path:
        raise ConfigError(f"a model's path is {path!r}; give a checkpoint's folder or hub id.")
    if not isinstance(processes, int):
        raise ConfigError(f"tensor_parallel is {processes!r}; give a number of processes.")
    _check_settings(model)
    method = _checked_method(model.get("method") or {"type": "full"})
    check_cache(model.get("cache", DEVICE), method, processes)
    check_processes(method, processes)
    ask.access(path, processes)
    fitting(method)(ask.config(path))


def _check_settings(model: Mapping[str, Any]) -> None:
    """Names, and what no checkpoint has to be asked about."""
    known = {
        name
        for kind in (LongContextLM, PromptRunner)
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    if unknown := sorted(set(model) - known - _OPENCOMPASS):
        raise ConfigError(
            f"a model's entry has {', '.join(unknown)}, which nothing reads; there are: "
            f"{', '.join(sorted(known))}, and OpenCompass's own {', '.join(sorted(_OPENCOMPASS))}."
        )
    counts = {"max_seq_len": "tokens", "max_prompt_tokens": "tokens", "batch_size": "prompts"}
    for name, things in counts.items():
        found = model.get(name)
        if found is not None and not (is_count(found) and found):
            raise ConfigError(f"{name} is {found!r:.80}; give a number of {things}, or None.")
    if model.get("quantization") is not None:
        check_named(plain(model["quantization"]))


def _checked_method(method: Any) -> Method:
    if not isinstance(method, Mapping):
        raise ConfigError(f"a method is {method!r:.60}; give a dictionary with its type.")
    try:
        built = build_method(plain(method))
        built.check_machine()
        return built
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, ReAttentionError):
            raise
        raise ConfigError(
            f"the method {plain(method)!r:.200} has a setting of the wrong kind ({error})."
        ) from error


def _check_needle_facts(facts: Mapping[str, Any]) -> None:
    depths = facts.get("depths")
    numbers = isinstance(depths, (list, tuple)) and all(map(is_number, depths))
    for name, fits, wanted in (
        ("length", is_count(facts.get("length")), "a number of tokens"),
        ("repeats", is_count(facts.get("repeats")), "a number of prompts"),
        ("depths", numbers, "a list of percent"),
        ("style", isinstance(facts.get("style"), str), "the name of a style"),
    ):
        if not fits:
            raise ConfigError(
                f"a needle test has {name} {facts.get(name)!r:.80}; it must be {wanted}."
            )


def _check_dataset(model: Mapping[str, Any], dataset: Mapping[str, Any], ask: _Checkpoints) -> None:
    asked = dataset.get("infer_cfg")
    inferencer = asked.get("inferencer") if isinstance(asked, Mapping) else None
    if not isinstance(inferencer, Mapping):
        return  # OpenCompass says what its own part lacks
    chat = inferencer.get("chat_template")
    chat = bool(model.get("chat_template", False) if chat is None else chat)
    facts = inferencer.get("dataset_facts") or {}
    if not isinstance(facts, Mapping):
        raise ConfigError(f"dataset_facts are {facts!r:.60}; give a dictionary.")
    needle = facts.get("benchmark") == "needle"
    folder = Path(str(model["path"])).expanduser()
    if not (chat or needle) or not folder.is_dir():
        return  # nothing is downloaded for a question
    tokenizer = ask.tokenizer(folder)
    if chat and not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            f"the tokenizer {folder} has no chat template; set chat_template=False, or use the "
            "chat version of the model."
        )
    if needle:
        _check_needle_facts(facts)
        check_needles(
            tokenizer,
            length=facts["length"],
            depths=facts["depths"],
            repeats=facts["repeats"],
            style=facts["style"],
            chat_template=chat,
        )
