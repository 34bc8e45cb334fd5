"""Models x methods, each pair under a name that says what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reattention_eval.checkpoints.folder import read_json
from reattention_eval.checkpoints.load import pick_dtype
from reattention_eval.checkpoints.local import is_embedded, model_path
from reattention_eval.context_length import context_length
from reattention_eval.errors import ConfigError
from reattention_eval.harness.fingerprint import checkpoint_fingerprint, digest, plain
from reattention_eval.methods import Method, build_method, sized

HASH_LENGTH = 8
# prompts the paper cuts to, in the model's own tokens: 4K, 8K, 32K, 64K and 128K less the answer
PAPER_LENGTHS = {"4K": 3500, "8K": 7500, "32K": 31500, "64K": 63500, "128K": 127500}
# keys of a model's configuration that leave every prediction as it is
_NEUTRAL = {
    "abbr", "batch_size", "cache", "device_map", "name", "path", "run_cfg", "summarizer_abbr",
    "tensor_parallel",
    "tokenizer_only", "type",
}  # fmt: skip
# keys that say something about the model to these functions alone
_FACTS = ("method_settings", "window")


def model_method_pairs(
    models: Sequence[Mapping[str, Any]],
    methods: Sequence[Mapping[str, Any]],
    *,
    cut_at_window: bool = False,
) -> list[dict[str, Any]]:
    """Every model under every method, each with an `abbr` that says what it is.

    NAME-METHOD-BUDGET-HASH, the hash over checkpoint, method settings (defaults included), dtype
    and all else that changes a prediction; so `-r` can never mix two settings.

    Two keys of a model are used up here: `method_settings`, by method type the settings that this
    model's entry gives where the method's own leaves them open (a scope, for instance), and
    `window`, the tokens it was trained on, which the method must fit.

    Args:
        cut_at_window: methods that do not read any length (`Method.reach`; full attention reads no
            further than the model's trained `window`): their prompts lose their middle beyond the
            longest of the paper's lengths that fits (7,500 tokens for 8,192), and `cut7500` stands
            in the name.

    Raises:
        CheckpointError: an embedded model that was not fetched.
        ConfigError: an unknown method or setting, a method that does not fit the window, a folder
            that is not there, two equal entries, a cut asked of a model without a `window`.
    """
    out = []
    for model in models:
        if is_embedded(str(model["path"])):
            model = {**model, "path": model_path(str(model["path"]))}
        _check_path(str(model["path"]))
        for bare in methods:
            method = _on_model(model, bare)
            built = build_method(method)
            if window := model.get("window") or folder_context_length(str(model["path"])):
                built = built.on(int(window))
            if model.get("window"):
                _check_window(model, built)
            own: dict[str, Any] = {key: model[key] for key in model if key not in _FACTS}
            cut = _cut(model, built) if cut_at_window else None
            if cut:
                own["max_prompt_tokens"] = cut
            # "auto" depends on the machine, so what it comes to is written down
            own["dtype"] = str(pick_dtype(model.get("dtype", "auto"))).removeprefix("torch.")
            settings = {key: own[key] for key in own if key not in _NEUTRAL}
            mark = digest(
                [checkpoint_fingerprint(model["path"]), built.name, built.settings(), settings]
            )
            name = model_name(model)
            words = [name, built.name, *([str(built.budget)] if built.budget else [])]
            words += [f"cut{cut}"] if cut else []
            abbr = "-".join([*words, mark[:HASH_LENGTH]])
            out.append({**own, "name": name, "abbr": abbr, "method": method})
    all_different([model["abbr"] for model in out], "model with method")
    return out


def _check_window(model: Mapping[str, Any], method: Method) -> None:
    try:
        method.check(int(model["window"]))
    except ConfigError as error:
        raise ConfigError(
            f"{model_name(model)}: {error} Or leave it out: REATTENTION_ONLY_METHODS takes methods "
            "by type, or with their budget, as reattention-8192."
        ) from error


def model_name(model: Mapping[str, Any]) -> str:
    """A model's `abbr`, else the last part of its path."""
    return str(model.get("abbr") or Path(str(model["path"]).rstrip("/")).name)


def folder_context_length(path: str) -> int | None:
    """The trained window that a checkpoint folder's config.json tells; None for a hub id.

    Raises:
        CheckpointError: a config.json that cannot be read.
        ConfigError: it says something that counts no tokens.
    """
    file = Path(path).expanduser() / "config.json"
    return context_length(read_json(file)) if file.is_file() else None


def all_different(names: Sequence[str], what: str) -> None:
    """Raise ConfigError, naming them, if any of `names` is there twice."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"the same {what} is listed twice: {', '.join(twice)}; remove one.")


def _on_model(model: Mapping[str, Any], method: Mapping[str, Any]) -> dict[str, Any]:
    own = model.get("method_settings", {}).get(method["type"], {})
    return sized(plain(method), plain(own))


def _cut(model: Mapping[str, Any], method: Method) -> int | None:
    """Prompt tokens that a method which does not read any length may be given."""
    window = model.get("window") or folder_context_length(str(model["path"]))
    reach = method.reach(int(window or 1))
    if reach is None:
        return None
    if not window:
        raise ConfigError(
            f"how far {model['path']} can read is not known, so {method.name} cannot be cut to "
            "it; give the model a window=... (its trained window in tokens)."
        )
    fitting = [length for length in PAPER_LENGTHS.values() if length < reach]
    return max(fitting) if fitting else reach // 2


def _check_path(path: str) -> None:
    """A missing folder is found before any process is started."""
    if path.startswith((".", "/", "~")) and not Path(path).expanduser().is_dir():
        raise ConfigError(
            f"the model {path} is no folder; give the folder of a checkpoint or a hub id."
        )
