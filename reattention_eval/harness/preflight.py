"""What is wrong with a run, as far as it can be known before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from reattention_eval.checkpoints import check_access, load_model
from reattention_eval.datasets.needle import check_needles
from reattention_eval.errors import ConfigError, ReAttentionError
from reattention_eval.harness.fingerprint import plain
from reattention_eval.methods import build_method

_OURS = ("LongContextLM", "ReAttentionCausalLM")


def find_problems(
    jobs: Iterable[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]],
) -> list[str]:
    """One sentence for each thing that cannot work; nothing is loaded but tokenizers.

    Asked are: checkpoints, methods and their settings, chat templates, and what needle tests are
    to be made of. Models of other classes than ours are left to them.

    Args:
        jobs: each model's entry of a configuration, with the datasets that it is to run.
    """
    tokenizers: dict[str, Any] = {}
    found: dict[str, None] = {}
    for model, datasets in jobs:
        if not is_ours(model.get("type")):
            continue
        checks = [partial(_check_model, model)]
        checks += [partial(_check_dataset, model, dataset, tokenizers) for dataset in datasets]
        for check in checks:
            try:
                check()
            except ReAttentionError as error:
                found[str(error)] = None
                if check is checks[0]:
                    break  # its datasets would say the same again
    return list(found)


def is_ours(kind: Any) -> bool:
    """Whether a configuration's `type` is this package's model, by class or by path."""
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    return name.rpartition(".")[2] in _OURS


def _check_model(model: Mapping[str, Any]) -> None:
    path = model.get("path")
    if not isinstance(path, str) or not path:
        raise ConfigError(f"a model's path is {path!r}; give a checkpoint's folder or hub id.")
    build_method(plain(model.get("method") or {"type": "full"}))
    check_access(path, int(model.get("tensor_parallel") or 1))


def _check_dataset(
    model: Mapping[str, Any], dataset: Mapping[str, Any], tokenizers: dict[str, Any]
) -> None:
    ask = dataset.get("infer_cfg", {}).get("inferencer", {})
    chat = ask.get("chat_template")
    chat = bool(model.get("chat_template", False) if chat is None else chat)
    facts = ask.get("dataset_facts") or {}
    needle = facts.get("benchmark") == "needle"
    folder = Path(str(model["path"])).expanduser()
    if not (chat or needle) or not folder.is_dir():
        return
    if str(folder) not in tokenizers:
        _, tokenizers[str(folder)] = load_model(folder, tokenizer_only=True)
    tokenizer = tokenizers[str(folder)]
    if chat and not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            f"the tokenizer {folder} has no chat template; set chat_template=False, or use the "
            "chat version of the model."
        )
    if needle:
        check_needles(
            tokenizer,
            length=int(facts["length"]),
            depths=facts["depths"],
            repeats=int(facts["repeats"]),
            style=str(facts["style"]),
            chat_template=chat,
        )
