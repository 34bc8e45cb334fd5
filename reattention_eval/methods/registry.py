"""Methods by the name that configurations and the command line use.

Three kinds of names: those of this package, those that installed packages announce as entry points
of the group `reattention_eval.methods`, and the dotted path of any class.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from importlib import metadata
from inspect import isabstract
from typing import Any

from reattention_eval.errors import ConfigError
from reattention_eval.methods.base import BUDGET, MOST, Method, NativeMethod, ViewMethod
from reattention_eval.methods.dca import DualChunkAttention
from reattention_eval.methods.eviction import (
    H2O,
    TOVA,
    ExpectedAttention,
    KeyDiff,
    KVPress,
    PyramidKV,
    SnapKV,
)
from reattention_eval.methods.full import FullAttention
from reattention_eval.methods.infllm import InfLLM
from reattention_eval.methods.lm_infinite import LMInfinite
from reattention_eval.methods.native_full import NativeFull
from reattention_eval.methods.oracle import OracleTopK, OracleTopP
from reattention_eval.methods.quest import Quest
from reattention_eval.methods.reattention import ReAttention
from reattention_eval.methods.reattention_plus import ReAttentionPlus
from reattention_eval.methods.rope_scaling import DynamicNTK, LinearRope, YarnRope
from reattention_eval.methods.self_extend import SelfExtend
from reattention_eval.methods.streaming_llm import StreamingLLM

GROUP = "reattention_eval.methods"
_METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        ReAttention, ReAttentionPlus, FullAttention, StreamingLLM, InfLLM, LMInfinite, SelfExtend,
        DualChunkAttention, DynamicNTK, LinearRope, YarnRope, Quest, OracleTopK, OracleTopP,
        NativeFull, SnapKV, H2O, PyramidKV, TOVA, ExpectedAttention, KeyDiff, KVPress,
    )
}  # fmt: skip


def list_methods() -> list[str]:
    """Names of the methods, in the order they are presented: this package's, then those of
    installed packages by name."""
    return [*_METHODS, *sorted(set(_entry_points()) - set(_METHODS))]


def method_class(name: str) -> type[Method]:
    """The class of a name, of an entry point or of a dotted path.

    Raises:
        ConfigError: an unknown name, naming those that exist; a path or an entry point that leads
            to no method; a name that two packages announce.
    """
    if name in _METHODS:
        return _METHODS[name]
    announced = _entry_points().get(name, [])
    if len(announced) > 1:
        packages = ", ".join(sorted({_package(point) for point in announced}))
        raise ConfigError(
            f"the method {name!r} is announced by more than one package ({packages}); uninstall "
            "one, or name the class itself, as in type='package.module.Class'."
        )
    if announced:
        path = announced[0].value.replace(":", ".")
        return _by_path(path, f"{name!r} of the package {_package(announced[0])}")
    if ":" in name:
        raise ConfigError(
            f"a method's name has no settings in it, found {name!r:.80}; give them in a dict, as "
            "dict(type='reattention', local_size=2048)."
        )
    if "." in name:
        return _by_path(name, repr(name))
    raise ConfigError(
        f"unknown method {name!r}; there are: {', '.join(list_methods())}. A class of your own is "
        "named by its path, as in type='package.module.Class'."
    )


def build_method(settings: Mapping[str, Any] | str | Method) -> Method:
    """A method from `dict(type="reattention", local_size=2048, ...)`, or from its name alone.

    The type may be the class itself. `budget_tokens`, the keys that a query attends to, stands
    for the settings that follow from it (`Method.budget_settings`).

    Raises:
        ConfigError: an unknown name or field, naming those that exist; a setting left out that has
            no default; as `method_class` and `sized`.
    """
    if isinstance(settings, Method):
        return settings
    if isinstance(settings, (str, type)):
        settings = {"type": settings}
    if not isinstance(settings, Mapping) or any(not isinstance(name, str) for name in settings):
        raise ConfigError(
            f"a method is given by its name, by a dict with its type and settings, or as an "
            f"object; found {settings!r:.80}. There are: {', '.join(list_methods())}."
        )
    if "type" not in settings:
        raise ConfigError(
            f"a method needs a type, as in dict(type='reattention'); found only "
            f"{sorted(settings)}; there are: {', '.join(list_methods())}."
        )
    cls = _class_of(settings["type"])
    known = {field.name: field for field in dataclasses.fields(cls) if field.init}
    unknown = sorted(set(settings) - set(known) - {"type", BUDGET})
    if unknown:
        names = [*known, *([BUDGET] if cls.budget_meaning and BUDGET not in known else [])]
        there = f"there are: {', '.join(names)}" if names else "it has none"
        raise ConfigError(f"{cls.name} has no setting {', '.join(unknown)}; {there}.")
    fields = {name: value for name, value in sized(settings).items() if name != "type"}
    needed = [name for name, field in known.items() if _required(field) and name not in fields]
    if needed:
        raise ConfigError(f"{cls.name} needs the setting {', '.join(needed)}.")
    return cls(**fields)


def sized(settings: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A method's dict with what follows from `budget_tokens` in its place.

    Args:
        settings: with a type.
        defaults: count where neither the settings nor their budget say anything.

    Raises:
        ConfigError: as `Method.budget_settings`; no whole number; a setting that is given beside
            the budget it follows from.
    """
    cls, given = _class_of(settings["type"]), {**(defaults or {}), **settings}
    if BUDGET not in settings or any(field.name == BUDGET for field in dataclasses.fields(cls)):
        return given
    tokens = given.pop(BUDGET)
    cls.require(
        type(tokens) is int and 1 <= tokens <= MOST,
        f"{BUDGET} must be a whole number of at least 1, found {tokens!r:.80}",
    )
    own = cls.budget_settings(tokens, {name: given[name] for name in given if name != "type"})
    twice = sorted(set(own) & set(settings))
    cls.require(not twice, f"give {BUDGET} or {', '.join(twice)}, which follows from it, not both")
    return {**given, **own}


def _class_of(kind: Any) -> type[Method]:
    return _checked(kind, repr(kind)) if isinstance(kind, type) else method_class(str(kind))


def method_settings(method: Method) -> dict[str, Any]:
    """`build_method`'s dict for an equal method, all settings written out."""
    cls = type(method)
    named = any(name == method.name and _same(name, cls) for name in list_methods())
    path = f"{cls.__module__}.{cls.__qualname__}"
    return {"type": method.name if named else path, **method.settings()}


def _same(name: str, cls: type[Method]) -> bool:
    try:
        return method_class(name) is cls
    except ConfigError:
        return False


def _entry_points() -> dict[str, list[metadata.EntryPoint]]:
    found: dict[str, list[metadata.EntryPoint]] = {}
    for point in metadata.entry_points(group=GROUP):
        if point not in found.setdefault(point.name, []):
            found[point.name].append(point)
    return found


def _package(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def _by_path(path: str, what: str) -> type[Method]:
    """package.module.Class; the class may stand inside another."""
    module, name = path.rsplit(".", 1)
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # whatever a foreign module raises while it is imported
        raise ConfigError(
            f"the method {what} cannot be imported from {module} "
            f"({type(error).__name__}: {error}); install its package, or put its folder on "
            f"PYTHONPATH. Methods by name: {', '.join(list_methods())}."
        ) from error
    if found is None:
        raise ConfigError(f"the method {what} is not there: {module} has no {name}.")
    return _checked(found, what)


def _checked(cls: Any, what: str) -> type[Method]:
    kinds = (ViewMethod, NativeMethod)
    if not isinstance(cls, type) or not issubclass(cls, kinds) or isabstract(cls):
        raise ConfigError(
            f"{what} is no long-context method; it must be a class below "
            "reattention_eval.methods.ViewMethod or NativeMethod that says all that these ask for."
        )
    missing = [name for name in ("name", "source") if not isinstance(getattr(cls, name, None), str)]
    if missing:
        raise ConfigError(
            f"the method {what} must say its {' and its '.join(missing)} as class attributes."
        )
    return cls


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING
