"""Layers that leave their rotation out: their own forward, but for the function that rotates.

An identity rotary module has a layer multiply queries and keys by one and add nothing, ten kernels
for naught. Where the layer's own forward rotates by its file's `apply_rotary_pos_emb`, a copy of
that forward which finds another function under this name hands over the same bits without them.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from reattention_eval.attention.model_patch import OwnForward

ROTATION = "apply_rotary_pos_emb"
Function = Callable[..., Any]


class RotationProbe:
    """Stands in for a layer's rotation while identity rotary modules are: leaves it out where it
    changes no bit, and notes where it does."""

    def __init__(self, rotate: Function) -> None:
        self._rotate = rotate
        self._calls = self._changed = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        made = self._rotate(*args, **kwargs)
        self._calls += 1
        pair = len(args) >= 2 and isinstance(made, tuple) and len(made) == 2
        if pair and all(_same(x, y) for x, y in zip(args, made, strict=False)):
            return args[0], args[1]
        self._changed += 1
        return made

    @property
    def idle(self) -> bool:
        """Whether it was called, and could be left out whenever it was."""
        return self._calls > 0 and not self._changed


class Probes:
    """A probe for each of these modules whose forward names its rotation."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._probes: list[tuple[nn.Module, RotationProbe]] = []
        self.forwards: list[OwnForward] = []
        for module in modules:
            rotate = _rotation(module)
            if rotate is not None:
                probe = RotationProbe(rotate)
                self._probes.append((module, probe))
                self.forwards += _rotating_by(module, probe)

    def unrotated(self) -> list[OwnForward]:
        """Forwards without the rotations that changed nothing."""
        idle = (module for module, probe in self._probes if probe.idle)
        return [forward for module in idle for forward in _rotating_by(module, _unrotated)]


def _unrotated(query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    return query, key


def _same(before: Any, after: Any) -> bool:
    """Whether a rotation gave back what it was given; rows that a kernel cannot read as they lie
    (last stride not 1) are better copied."""
    return (
        isinstance(before, Tensor)
        and isinstance(after, Tensor)
        and before.dtype == after.dtype
        and before.device == after.device
        and before.stride(-1) == 1
        and torch.equal(before, after)
    )


def _rotation(module: nn.Module) -> Function | None:
    """What the module's forward rotates by, where it is found by name."""
    own = _wrapped(type(module).forward)[-1]
    if not inspect.isfunction(own) or ROTATION not in own.__code__.co_names:
        return None
    return own.__globals__.get(ROTATION)


def _rotating_by(module: nn.Module, rotate: Function) -> list[OwnForward]:
    """The module's forward with this in the place of its rotation; none where it is not the class's
    own, or wrapped by what is no plain decorator."""
    name = "_old_forward" if "_old_forward" in vars(module) else "forward"  # accelerate's
    functions = _wrapped(type(module).forward)
    held = vars(module).get(name)
    if held is not None and getattr(held, "__func__", None) is not functions[0]:
        return []
    inner = functions.pop()
    made = _copied(inner, {**inner.__globals__, ROTATION: rotate})
    while functions:
        wrapper = functions.pop()
        cells = [cell.cell_contents for cell in getattr(wrapper, "__closure__", None) or ()]
        if sum(content is inner for content in cells) != 1:
            return []
        closure = tuple(types.CellType(made if x is inner else x) for x in cells)
        made = _copied(wrapper, wrapper.__globals__, closure, __wrapped__=made)
        inner = wrapper
    return [OwnForward(module, name, types.MethodType(made, module))]


def _wrapped(function: Any) -> list[Any]:
    """A function and what it wraps, the innermost last."""
    found = [function]
    while hasattr(found[-1], "__wrapped__"):
        found.append(found[-1].__wrapped__)
    return found


def _copied(
    function: Any, names: dict[str, Any], closure: Any = None, **attributes: Any
) -> types.FunctionType:
    """A function of the same code, with other global names, and other cells where given."""
    made = types.FunctionType(
        function.__code__, names, function.__name__, function.__defaults__,
        function.__closure__ if closure is None else closure,
    )  # fmt: skip
    made.__kwdefaults__ = function.__kwdefaults__
    made.__qualname__, made.__module__ = function.__qualname__, function.__module__
    made.__doc__, made.__annotations__ = function.__doc__, function.__annotations__
    vars(made).update(vars(function) | attributes)
    return made
