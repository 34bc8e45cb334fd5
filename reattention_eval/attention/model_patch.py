"""What a hook exchanges on a model for as long as it is installed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import AttentionInterface

from reattention_eval.attention.direct_sdpa import Attend, answered_by


@dataclass(frozen=True)
class Exchange:
    """A module that another one stands in for: `name` of its parent, and the stand-in."""

    parent: nn.Module
    name: str
    stand_in: nn.Module


@dataclass(frozen=True)
class OwnForward:
    """A function that stands in for the forward of a module: `name`, under which it is held."""

    module: nn.Module
    name: str
    function: Callable[..., Any]


def exchange_configs(model: nn.Module, attention: str) -> list[tuple[nn.Module, Any]]:
    """Every layer calls the attention of this name, by copies of the configurations; modules with
    those that they had."""
    originals: list[tuple[nn.Module, Any]] = []
    copies: dict[int, Any] = {}
    for module in model.modules():
        config = module.__dict__.get("config")
        if config is None or not hasattr(config, "_attn_implementation"):
            continue
        if id(config) not in copies:
            copies[id(config)] = copy.deepcopy(config)
            copies[id(config)]._attn_implementation = attention
        originals.append((module, config))
        module.config = copies[id(config)]
    return originals


class ModelPatch:
    """Leaves queries and keys un-rotated and has every layer call the attention of this name.

    Args:
        model: whose configurations are replaced by copies: they are shared between models.
        exchanges: rotary modules and what stands in for them.
        name: under which the attention function is registered with transformers.
        attend: the function.
        forwards: what stands in for the forwards of single modules.
        direct: modules that call PyTorch's attention by themselves, and their query heads per KV
            head.
    """

    def __init__(
        self,
        model: nn.Module,
        exchanges: Sequence[Exchange],
        name: str,
        attend: Attend,
        forwards: Sequence[OwnForward] = (),
        direct: Mapping[nn.Module, int] | None = None,
    ) -> None:
        AttentionInterface.register(name, attend)
        self._configs = exchange_configs(model, name)
        self._originals = [(e.parent, e.name, getattr(e.parent, e.name)) for e in exchanges]
        for exchange in exchanges:
            setattr(exchange.parent, exchange.name, exchange.stand_in)
        self._forwards: list[tuple[nn.Module, str, Any]] = []
        for forward in forwards:
            self._hold(forward.module, forward.name, forward.function)
        for module, group in (direct or {}).items():
            self._hold(module, "forward", answered_by(module, attend, group))

    def _hold(self, module: nn.Module, name: str, function: Callable[..., Any]) -> None:
        self._forwards.append((module, name, vars(module).get(name)))
        vars(module)[name] = function

    def undo(self) -> None:
        """Leave the model as it was."""
        for module, name, forward in reversed(self._forwards):
            del vars(module)[name]
            if forward is not None:
                vars(module)[name] = forward
        for parent, name, rotary in self._originals:
            setattr(parent, name, rotary)
        for module, config in self._configs:
            module.config = config
