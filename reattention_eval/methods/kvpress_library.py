"""NVIDIA's kvpress (Apache-2.0): found, imported without its patch, its presses by name.

It needs transformers 4: on 5.x attention layers are no longer told the `cache_position` that its
hook asks for, so every press ends with a KeyError in its first layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from reattention_eval.errors import ConfigError, MachineError

if TYPE_CHECKING:
    from torch import nn

VERSION = "0.5.5"
# it demands numpy 2, which OpenCompass refuses and it does not use
INSTALL = f"pip install 'reattention-eval[baselines]' && pip install --no-deps kvpress=={VERSION}"

# presses that compress by kvpress's own hook and yet cannot be given a budget here
_OTHERS = {
    "KeyRerotationPress": "it moves the keys that it keeps to other positions",
    "DuoAttentionPress": "what it keeps follows from its other settings",
    "SimLayerKVPress": "what it keeps follows from its other settings",
    "ThinKPress": "it drops channels of keys, and no keys",
}
_NOT_ONE_FORWARD = "it reads a prompt in a way of its own, not in one forward"
_ABSTRACT = ("BasePress", "ScorerPress")


def check_kvpress() -> None:
    """Raise MachineError where kvpress cannot run here; nothing is imported."""
    transformers = metadata.version("transformers")
    if not transformers.startswith("4."):
        raise MachineError(
            f"kvpress runs on transformers 4.57, and {transformers} is installed: 5.x no longer "
            "tells attention layers the cache_position by which kvpress knows a prompt. Use an "
            "environment with transformers 4.57."
        )
    try:
        found = metadata.version("kvpress")
    except metadata.PackageNotFoundError:
        raise MachineError(f"this method needs kvpress {VERSION}: {INSTALL}") from None
    if found != VERSION:
        raise MachineError(f"kvpress {found} is installed, and {VERSION} was tested: {INSTALL}")


@cache
def library() -> Any:
    """The package, imported; transformers' attention functions are afterwards what they were.

    Raises:
        MachineError: as `check_kvpress`; something that it imports is missing.
    """
    check_kvpress()
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as functions

    before = dict(functions)
    try:
        import kvpress
    except ImportError as error:
        raise MachineError(f"kvpress cannot be imported ({error}): {INSTALL}") from error
    finally:
        for name, function in before.items():
            _put(functions, name, function)
    return kvpress


def check_family(model_type: str, name: str) -> None:
    """Raise ConfigError where kvpress was not written for a family of models.

    model_type: as in a config.json; name: the method that asks.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    check_class(getattr(transformers, NAMES.get(model_type, ""), None), model_type, name)


def check_class(model: type | None, what: str, name: str) -> None:
    """As `check_family`; model: the class, None for one that transformers does not have."""
    supported = library().presses.base_press.SUPPORTED_MODELS
    if model is None or not issubclass(model, supported):
        names = [kind.__name__ for kind in supported if "Causal" in kind.__name__]
        raise ConfigError(
            f"{name}: kvpress was written for {', '.join(names)}, and this model is "
            f"{what}; use another model, or another method."
        )


def press_names() -> list[str]:
    """The presses that a budget in tokens can be given to."""
    return [name for name, why in _known().items() if not why]


def make_press(name: str, settings: Mapping[str, Any]) -> Any:
    """A press by its class's name. Where a setting is a press, it is given by its name, or as a
    dict with its `type` and settings.

    Raises:
        ConfigError: no such press (those that exist are named), one that cannot be given a budget,
            settings that it does not take.
    """
    known = _known()
    if known.get(name, "") or name not in known:
        why = f"kvpress's {name} cannot be used: {known[name]}" if name in known else (
            f"kvpress has no press {name!r:.80}"
        )  # fmt: skip
        raise ConfigError(f"{why}; there are: {', '.join(press_names())}.")
    cls = getattr(library(), name)
    fields = [field.name for field in dataclasses.fields(cls) if field.init] or ["press"]
    taken = [field for field in fields if field != "compression_ratio" and field[0] != "_"]
    if unknown := sorted(set(settings) - set(taken)):
        raise ConfigError(
            f"kvpress's {name} has no setting {', '.join(map(str, unknown))}; there are: "
            f"{', '.join(taken) or 'none'} (compression_ratio follows from budget_tokens)."
        )
    own = {key: _inner(value) if key == "press" else value for key, value in settings.items()}
    try:
        press = cls(**own)
        press.compression_ratio = 0.0
    except (TypeError, ValueError, AssertionError, AttributeError) as error:
        raise ConfigError(
            f"kvpress's {name} does not take {dict(settings)!r:.200} ({error}); its settings: "
            f"{', '.join(taken) or 'none'}."
        ) from error
    return press


def _inner(value: Any) -> Any:
    if isinstance(value, Mapping):
        return make_press(str(value.get("type")), {k: value[k] for k in value if k != "type"})
    return make_press(value, {}) if isinstance(value, str) else value


@cache
def _known() -> dict[str, str]:
    """Every press, and why it cannot be used here, if so."""
    kvpress, found = library(), {}
    base: Any = kvpress.BasePress
    for name in sorted(vars(kvpress)):
        press: Any = getattr(kvpress, name)
        if isinstance(press, type) and issubclass(press, base) and name not in _ABSTRACT:
            own = any(
                getattr(press, part) is not getattr(base, part)
                for part in ("__call__", "forward_hook")
            )
            found[name] = _OTHERS.get(name, _NOT_ONE_FORWARD if own else "")
    return found


_MASKING: dict[str, dict[int, int]] = {}  # attention function -> modules, and by how many blocks


@contextmanager
def masking(name: str, modules: Sequence[nn.Module]) -> Iterator[None]:
    """Inside the block the attention function `name` leaves out what presses mask in `modules`.

    What kvpress's import does to transformers for the whole process, for one model and one block:
    for presses that mark keys of single heads as gone (`module.masked_key_indices`).
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as functions

    plain = dict(functions).get(name)
    if plain is None:  # eager attention is each model's own; kvpress does not patch it either
        yield
        return
    owners = _MASKING.setdefault(name, {})
    if not owners:
        _put(functions, name, _only_in(owners, plain))
    for module in modules:
        owners[id(module)] = owners.get(id(module), 0) + 1
    try:
        yield
    finally:
        for module in modules:
            owners[id(module)] -= 1
            if not owners[id(module)]:
                del owners[id(module)]
        if not owners:
            _put(functions, name, functions[name].plain)


def _only_in(owners: Mapping[int, int], plain: Callable[..., Any]) -> Callable[..., Any]:
    patched = library().attention_patch.attention_patch(plain)

    def attend(module: Any, *args: Any, **kwargs: Any) -> Any:
        if id(module) not in owners:
            return plain(module, *args, **kwargs)
        try:
            return patched(module, *args, **kwargs)
        except ValueError as error:  # more queries than can be kept from a key in so few dimensions
            raise ConfigError(f"kvpress cannot mask keys of this model ({error}).") from error

    attend.plain = plain  # type: ignore[attr-defined]
    return attend


def _put(functions: Any, name: str, function: Callable[..., Any]) -> None:
    """`functions[name]` is `function` again, by no override where none is needed."""
    if functions[name] is not function:
        if name in functions._local_mapping:
            del functions[name]
        if dict(functions).get(name) is not function:
            functions[name] = function
