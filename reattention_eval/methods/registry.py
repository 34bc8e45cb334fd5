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
from reattention_eval.methods.base import Method, NativeMethod, ViewMethod
from reattention_eval.methods.dca import DualChunkAttention
from reattention_eval.methods.full import FullAttention
from reattention_eval.methods.infllm import InfLLM
from reattention_eval.methods.lm_infinite import LMInfinite
from reattention_eval.methods.native_full import NativeFull
from reattention_eval.methods.reattention import ReAttention
from reattention_eval.methods.rope_scaling import DynamicNTK, LinearRope, YarnRope
from reattention_eval.methods.self_extend import SelfExtend
from reattention_eval.methods.streaming_llm import StreamingLLM

GROUP = "reattention_eval.methods"
_METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        ReAttention, FullAttention, StreamingLLM, InfLLM, LMInfinite, SelfExtend,
        DualChunkAttention, DynamicNTK, LinearRope, YarnRope, NativeFull,
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
    if "." in name:
        return _by_path(name, repr(name))
    raise ConfigError(
        f"unknown method {name!r}; there are: {', '.join(list_methods())}. A class of your own is "
        "named by its path, as in type='package.module.Class'."
    )


def build_method(settings: Mapping[str, Any] | str | Method) -> Method:
    """A method from `dict(type="reattention", local_size=2048, ...)`, or from its name alone.

    The type may be the class itself.

    Raises:
        ConfigError: an unknown name or field, naming those that exist; a setting left out that has
            no default; as `method_class`.
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
    fields = {name: value for name, value in settings.items() if name != "type"}
    kind = settings["type"]
    cls = _checked(kind, repr(kind)) if isinstance(kind, type) else method_class(str(kind))
    known = {field.name: field for field in dataclasses.fields(cls) if field.init}
    unknown = sorted(set(fields) - set(known))
    if unknown:
        there = f"there are: {', '.join(known)}" if known else "it has none"
        raise ConfigError(f"{cls.name} has no setting {', '.join(unknown)}; {there}.")
    needed = [name for name, field in known.items() if _required(field) and name not in fields]
    if needed:
        raise ConfigError(f"{cls.name} needs the setting {', '.join(needed)}.")
    return cls(**fields)


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
