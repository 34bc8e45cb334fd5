"""What a model hands to its attention, layer by layer, written down during a short forward.

The attention that answers meanwhile returns every token's own value: what a layer is handed then
depends neither on RoPE nor on the softmax, so two forwards can be compared number by number.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionMaskInterface
from transformers.masking_utils import eager_mask

from reattention_eval.attention.direct_sdpa import SdpaAsRegistered
from reattention_eval.attention.model_patch import Exchange, ModelPatch, OwnForward
from reattention_eval.cache_argument import cache_argument

NAME = "reattention_recording"


@dataclass(frozen=True)
class Call:
    """One call of the attention function: query [1, H, T, D], key and value [1, Hkv, T, D]."""

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    scaling: Any
    mask: Tensor | None
    allows: Callable[..., Tensor] | None  # the rule that the mask was made by, where it is known
    foreign: bool  # the model makes masks by transformers' rules, and this is none of those
    extras: dict[str, Any]
    direct: bool  # the module calls PyTorch's attention by itself


@dataclass
class Recording:
    """A forward: its attention calls in order, and the tables of its rotary modules."""

    calls: list[Call] = field(default_factory=list)
    tables: dict[tuple[int, str | None], Any] = field(default_factory=dict)  # by (id, layer type)
    inputs: dict[int, Tensor] = field(default_factory=dict)  # hidden states, by id of the module
    scored: int = 0  # tokens that the forward gave logits of
    _masks: dict[int, tuple[Tensor, Any]] = field(default_factory=dict)
    _inside: list[nn.Module] = field(default_factory=list)

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: Any = None,
        direct: bool = False,
        **extras: Any,
    ) -> tuple[Tensor, None]:
        """The attention function: writes down, and returns [B, T, H, D]."""
        allows = None if attention_mask is None else self._rule(attention_mask)
        foreign = attention_mask is not None and allows is None and bool(self._masks)
        self.calls.append(
            Call(
                module, query, key, value, scaling, attention_mask, allows, foreign, extras, direct
            )
        )
        own = value.repeat_interleave(query.shape[1] // value.shape[1], 1)
        return own.transpose(1, 2).contiguous(), None

    def mask(self, **how: Any) -> Tensor:
        """transformers' own additive mask; its rule is remembered with it."""
        made = eager_mask(**how)
        self._masks[made.data_ptr()] = made, how["mask_function"]
        return made

    def _rule(self, mask: Tensor) -> Any:
        """Of a mask that `mask` made; one that went to another device is known by its values."""
        made, rule = self._masks.get(mask.data_ptr(), (None, None))
        if made is None and mask.is_floating_point():
            for made, other in self._masks.values():
                if made.device != mask.device and torch.equal(made.to(mask), mask):
                    return other
        return rule

    def innermost(self) -> nn.Module:
        """The attention module at work."""
        return self._inside[-1]

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._inside.append(module)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._inside.pop()

    def _rotary(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        told = args[2] if len(args) > 2 else kwargs.get("layer_type")
        known = {"x", "hidden_states", "position_ids", "layer_type"}
        unknown = sorted(set(kwargs) - known) or (told is not None and not isinstance(told, str))
        self.tables[id(module), None if unknown else told] = None if unknown else output


def record(
    model: Any,
    rotaries: Sequence[nn.Module],
    exchanges: Sequence[Exchange] = (),
    inputs: dict[int, Tensor] | None = None,
    forwards: Sequence[OwnForward] = (),
    **forward: Any,
) -> Recording:
    """Run the model's forward with these arguments, its attention replaced by a recording one.

    exchanges: what stands in for its rotary modules; forwards: for those of single modules;
    inputs: of an earlier recording, handed to the same attention modules again.
    """
    found = Recording()
    AttentionMaskInterface.register(NAME, lambda **how: found.mask(**how))
    patch = ModelPatch(model, exchanges, NAME, found.attend, forwards)
    handles: list[Any] = []
    try:
        for module in model.modules():
            if _may_attend(module):
                handles.append(module.register_forward_pre_hook(found._enter, with_kwargs=True))
                handles.append(module.register_forward_hook(found._leave))
                if _reads_hidden_states(module):
                    handles.append(_note_inputs(module, found.inputs, inputs))
        handles += [m.register_forward_hook(found._rotary, with_kwargs=True) for m in rotaries]
        with torch.inference_mode(), _direct(found):
            found.scored = model(**forward).logits.shape[1]
    finally:
        for handle in handles:
            handle.remove()
        patch.undo()
    return found


def _direct(found: Recording) -> SdpaAsRegistered:
    return SdpaAsRegistered(partial(found.attend, direct=True), found.innermost)


def _may_attend(module: nn.Module) -> bool:
    """Whether it knows its layer's number, or reads a cache."""
    return isinstance(getattr(module, "layer_idx", None), int) or cache_argument(module) is not None


def _reads_hidden_states(module: nn.Module) -> bool:
    return list(inspect.signature(type(module).forward).parameters)[1:2] == ["hidden_states"]


def _note_inputs(module: nn.Module, noted: dict[int, Tensor], given: Any) -> Any:
    """Note the hidden states a module reads; where given, it reads those instead."""

    def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        noted[id(module)] = hidden
        if given is None or id(module) not in given:
            return None
        hidden = given[id(module)]
        return (
            ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})
        )

    return module.register_forward_pre_hook(before, with_kwargs=True)
