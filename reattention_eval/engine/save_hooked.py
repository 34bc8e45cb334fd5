"""The cache of a view method on disk: keys and values as they are stored, in bounded shards.

Keys of later layers depend on what the method let earlier layers attend to, so that what was read
under one method is not what another would have read: methods must be equal, though all that
renumber store un-rotated keys. What a method keeps beside the keys is made again from them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from reattention_eval.attention import Hook, ReadsQueries
from reattention_eval.cache import LayerCache
from reattention_eval.engine.fingerprint import model_fingerprint, same_rope
from reattention_eval.engine.saved import SavedPrompt, read_about, read_file, write_folder
from reattention_eval.errors import ConfigError
from reattention_eval.methods import Method, method_settings, text_of_method
from reattention_eval.parallel import ranks_of

SHARD_BYTES = 64 << 20
PROMPT = "prompt.safetensors"


def save_hooked(
    folder: Path, kept: SavedPrompt, model: nn.Module, hook: Hook, method: Method
) -> None:
    """See `Session.save`."""
    _require_whole(model)
    check_savable(method)
    length, like = hook.layers[0].lengths[0], hook.layers[0].row(0).key
    about = {
        **_describe(model, hook, method),
        "tokens": length,
        "prompt_tokens": len(kept.prompt),
        "prompt_length": kept.prompt_length,
        "rope_length": hook.rows.prompts[0],
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    step = max(1, SHARD_BYTES // (2 * like.shape[0] * like.shape[2] * like.element_size()))

    def parts() -> Iterator[tuple[str, dict[str, Tensor]]]:
        yield PROMPT, {"ids": torch.tensor(kept.prompt), "logits": kept.logits}
        for i, layer in enumerate(hook.layers):
            row = layer.row(0)  # its keys may be at hand until the next layer's are
            for shard, start in enumerate(range(0, length, step)):
                key, value = row.between(start, min(start + step, length))
                yield _name(i, shard), {"key": key, "value": value}

    size = sum(layer.bytes_of(1, length) for layer in hook.layers)
    write_folder(folder, about, parts(), size + 8 * len(kept.prompt))


def check_savable(method: Method) -> None:
    """Raise ConfigError for a method of which no cache holds all that it keeps; needs no model."""
    if isinstance(method, ReadsQueries) or method.keeps_of_queries:
        raise ConfigError(
            f"what {method.name} keeps beside the keys comes from the queries, which no cache "
            "holds, and is not kept on disk; read the text again where it is needed."
        )


def check_saved(folder: Path, model: nn.Module, hook: Hook, method: Method) -> dict[str, Any]:
    """What session.json says, if it fits; see `Session.load`."""
    _require_whole(model)
    about = read_about(folder)
    _check(folder, about, _describe(model, hook, method))
    return about


def load_hooked(folder: Path, about: dict[str, Any], hook: Hook) -> SavedPrompt:
    """The hook, which has started a row with room, then holds what is kept, or nothing where a file
    is damaged."""
    prompt = read_file(folder, about, PROMPT)
    kept = SavedPrompt(prompt["ids"].tolist(), about["prompt_length"], prompt["logits"])
    try:
        for i, layer in enumerate(hook.layers):
            _fill(layer, folder, about, i)
    except BaseException:
        hook.rewind([0])
        raise
    hook.rows.tokens = [about["tokens"]]
    hook.expect([about["rope_length"]])
    hook.rows.end_reading()
    return kept


def read_prompt(folder: Path) -> tuple[dict[str, Any], list[int]]:
    """What session.json says, and the ids of what came by prefill; needs no model.

    Raises:
        DataError: as `Session.load`.
    """
    about = read_about(folder)
    return about, read_file(folder, about, PROMPT)["ids"].tolist()


def _fill(layer: LayerCache, folder: Path, about: dict[str, Any], i: int) -> None:
    shard, device = 0, layer.device or "cpu"
    while layer.lengths[0] < about["tokens"]:
        part = read_file(folder, about, _name(i, shard))
        layer.append(0, part["key"].to(device), part["value"].to(device))
        shard += 1


def _name(layer: int, shard: int) -> str:
    return f"layer-{layer:03d}-{shard:04d}.safetensors"


def _describe(model: Any, hook: Hook, method: Method) -> dict[str, Any]:
    """What has to be equal where it is loaded, and the model's name."""
    return {
        "model": str(getattr(model.config, "_name_or_path", "") or type(model).__name__),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "method": _settings(method),
        "fingerprint": model_fingerprint(model, hook),
        "rope": hook.rope_samples(),
    }


def _check(folder: Path, saved: dict[str, Any], here: dict[str, Any]) -> None:
    """Raise ConfigError for the first thing that differs."""
    if saved["dtype"] != here["dtype"]:
        raise ConfigError(
            f"{folder} was read in {saved['dtype']} and this model computes in {here['dtype']}; "
            f"load the model in {saved['dtype']}, or read the text again."
        )
    same = saved["fingerprint"] == here["fingerprint"] and same_rope(saved["rope"], here["rope"])
    if not same:
        raise ConfigError(
            f"{folder} was read by another model ({saved['model']}) than {here['model']}: their "
            "weights, layers or RoPE differ; load that model, or read the text again."
        )
    _check_settings(folder, saved["method"], here["method"])


def check_method(folder: Path, saved: dict[str, Any], method: Method) -> None:
    """Raise ConfigError where `folder` was read under another method; needs no model."""
    _check_settings(folder, saved["method"], _settings(method))


def _check_settings(folder: Path, saved: dict[str, Any], here: dict[str, Any]) -> None:
    if saved != here:
        raise ConfigError(
            f"{folder} was read under {text_of_method(saved)}, and this is "
            f"{text_of_method(here)}: keys of later layers depend on it; take the method that it "
            "was read under, or read the text again."
        )


def _settings(method: Method) -> dict[str, Any]:
    """As JSON gives them back."""
    settings: dict[str, Any] = json.loads(json.dumps(method_settings(method), default=repr))
    return settings


def _require_whole(model: nn.Module) -> None:
    ranks = ranks_of(model)
    if ranks is not None and ranks.size > 1:
        raise ConfigError(
            f"the model's heads are spread over {ranks.size} processes, each of which holds a part "
            "of the cache, and that is not kept on disk; save and load without tensor_parallel."
        )
