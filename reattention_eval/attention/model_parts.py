"""What the hook needs to know of a transformers model, found by watching it: `find_model_parts`.

Two short forwards with a recording attention, one as the model is, one with identity rotary modules
at other positions and without the rotations that then change nothing (`unrotated`). Of every layer,
what it hands over rotated must be the hook's own rotation of what it hands over un-rotated, to a
few units in the last place; the mask, the scale and whatever else it hands over must be what a
view's attention computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from reattention_eval.attention.calls import check_calls, check_numbers
from reattention_eval.attention.fused_norms import fused_norms
from reattention_eval.attention.masks import FAR, UnknownMask, seen_window
from reattention_eval.attention.model_patch import Exchange, OwnForward
from reattention_eval.attention.recording import Call, Recording, record
from reattention_eval.attention.refusals import check_model
from reattention_eval.attention.rope import IdentityRotary, ViewRope, is_rotary
from reattention_eval.attention.rope_of_layer import RopeFinder
from reattention_eval.attention.unrotated import Probes
from reattention_eval.cache_argument import cache_argument
from reattention_eval.errors import ConfigError, ReAttentionError
from reattention_eval.versions import check_transformers

TOKENS = 16  # of the recorded prompt


@dataclass(frozen=True)
class AttentionLayer:
    """One self-attention; `window`: tokens it attends to by itself, None for all of them."""

    module: nn.Module
    window: int | None
    rope: ViewRope  # rotates by nothing where the layer does not


@dataclass(frozen=True)
class ModelParts:
    """The parts of a model that the hook touches."""

    owner: nn.Module  # the decoder: is called once per forward and carries the cache
    exchanges: list[Exchange]  # its rotary modules
    unrotated: list[OwnForward]  # of layers that can leave their rotation out
    norms: list[OwnForward]  # that run as one kernel
    layers: list[AttentionLayer]
    direct: dict[nn.Module, int]  # modules that call PyTorch's attention by themselves


def find_model_parts(model: Any) -> ModelParts:
    """Find the parts; raises ConfigError with the reason where the hook cannot work."""
    check_transformers()
    check_model(model)
    name = type(model).__name__
    places = [
        (parent, child)
        for parent in model.modules()
        for child, module in parent.named_children()
        if is_rotary(module)
    ]
    rotaries = list({id(m): m for m in (getattr(*place) for place in places)}.values())
    ids = short_prompt(model)
    forward: dict[str, Any] = dict(
        input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, logits_to_keep=1
    )
    with watched(name):
        rotated = record(model, rotaries, **forward)
    check_calls(rotated, model.config.num_hidden_layers, name)
    check_numbers(rotated, model, name)
    dims = _rotary_dims(rotated, rotaries, name)
    exchanges = [
        Exchange(parent, child, IdentityRotary(dims[id(getattr(parent, child))]))
        for parent, child in places
    ]
    far = torch.arange(TOKENS, device=ids.device)[None] + FAR
    with watched(name):
        bare, unrotated = _bare(model, rotaries, exchanges, rotated, **forward, position_ids=far)
    if [c.module for c in bare.calls] != [c.module for c in rotated.calls]:
        raise ConfigError(f"{name} calls its attention otherwise from one forward to the next.")
    finder = RopeFinder(rotaries, rotated)
    layers = [
        AttentionLayer(own.module, _window(own, i, name), finder.rope(own, other, i, name))
        for i, (own, other) in enumerate(zip(rotated.calls, bare.calls, strict=True))
    ]
    if all(layer.window is not None for layer in layers):
        raise ConfigError(
            f"{name}: all {len(layers)} layers attend within a sliding window and cannot be given "
            "a view; use a checkpoint without such layers (Mistral: v0.2 or later)."
        )
    direct = {call.module: _group(call) for call in rotated.calls if call.direct}
    norms = fused_norms(model)
    return ModelParts(_owner(model, layers), exchanges, unrotated, norms, layers, direct)


def _bare(
    model: Any,
    rotaries: Sequence[nn.Module],
    exchanges: Sequence[Exchange],
    rotated: Recording,
    **forward: Any,
) -> tuple[Recording, list[OwnForward]]:
    """What the layers hand over un-rotated, and the forwards that do so with less."""
    again = partial(record, model, rotaries, exchanges, rotated.inputs, **forward)
    with suppress(Exception):  # whatever comes of a forward that is not quite the model's own
        probes = Probes(call.module for call in rotated.calls)
        return again(forwards=probes.forwards), probes.unrotated()
    return again(), []


@contextmanager
def watched(name: str) -> Iterator[None]:
    """What goes wrong in a first, short forward becomes one sentence about the model `name`.

    Raises:
        ConfigError: any other error of the forward, but for memory.
    """
    try:
        yield
    except (ReAttentionError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a model's own code raises
        text = (str(error).strip().splitlines() or [""])[0]
        raise ConfigError(
            f"{name} cannot be hooked: its forward failed over a {TOKENS}-token prompt while its "
            f"attention was watched or replaced ({type(error).__name__}: {text:.200})."
        ) from error


def short_prompt(model: Any) -> Tensor:
    """[1, 16] ids, on the device of the model's embedding."""
    embedding = model.get_input_embeddings()
    device = next(model.parameters()).device if embedding is None else embedding.weight.device
    if device.type == "meta":  # offloaded: accelerate moves the ids
        device = torch.device("cpu")
    return (torch.arange(TOKENS, device=device) * 7919 % model.config.vocab_size)[None]


def _rotary_dims(
    found: Recording, rotaries: Sequence[nn.Module], name: str
) -> dict[int, dict[str | None, int]]:
    dims: dict[int, dict[str | None, int]] = {}
    names = {id(m): type(m).__name__ for m in rotaries}
    for (module, told), tables in found.tables.items():
        if not (
            isinstance(tables, tuple)
            and len(tables) == 2
            and all(isinstance(x, Tensor) and x.is_floating_point() for x in tables)
            and tables[0].shape[-2] == TOKENS
        ):
            raise ConfigError(
                f"{name}: its {names[module]} is not the usual one (cos and sin of given "
                "positions), so the view's RoPE cannot be the model's own."
            )
        dims.setdefault(module, {})[told] = tables[0].shape[-1]
    if not dims:
        raise ConfigError(f"{name} holds rotary modules and uses none of them.")
    for rotary in rotaries:
        dims.setdefault(id(rotary), {None: 2})  # never called
    return dims


def _window(call: Call, layer: int, name: str) -> int | None:
    try:
        return seen_window(call)
    except UnknownMask as unknown:
        raise ConfigError(
            f"{name}: layer {layer} {unknown}, which a view's attention does not compute; use a "
            "checkpoint of full and sliding-window attention layers."
        ) from None


def _group(call: Call) -> int:
    """Query heads per KV head of a call whose keys come repeated for every query head."""
    group = getattr(call.module, "num_key_value_groups", 1)
    heads = call.key.shape[1]
    if not isinstance(group, int) or heads != call.query.shape[1] or heads % group:
        return 1
    alike = all(
        torch.equal(x, x[:, ::group].repeat_interleave(group, 1)) for x in (call.key, call.value)
    )
    return group if alike else 1


def _owner(model: nn.Module, layers: Sequence[AttentionLayer]) -> nn.Module:
    """The innermost module that carries a cache and holds every layer."""
    found = model
    wanted = {id(layer.module) for layer in layers}
    for module in model.modules():  # outer ones first
        if cache_argument(module) and wanted <= {id(m) for m in module.modules()}:
            found = module
    return found
