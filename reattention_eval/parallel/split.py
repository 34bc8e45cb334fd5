"""Splitting a decoder: heads and MLP columns by process, vocabulary by process."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from reattention_eval.errors import CheckpointError, ConfigError
from reattention_eval.parallel.layers import RowLinear, SplitEmbedding, SplitHead
from reattention_eval.parallel.ranks import Ranks, mark

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # whose projections bear the names below
COLUMNS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")  # outputs are spread
ROWS = ("o_proj", "down_proj")  # inputs are spread
VOCABULARY = ("embed_tokens", "lm_head")


class Sliceable(Protocol):
    """A tensor, or a stored one that is read where it is sliced."""

    def __getitem__(self, index: Any) -> Tensor: ...


def check_split(config: Any, size: int) -> None:
    """Raise ConfigError, with the sizes that work, where the model cannot be split so."""
    if config.model_type not in FAMILIES:
        raise ConfigError(
            f"tensor_parallel splits {', '.join(FAMILIES)} models; this is a {config.model_type} "
            "model; leave tensor_parallel out: device_map='auto' spreads any model's layers."
        )
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if size < 1 or kv_heads % size or heads % size:
        works = [n for n in range(1, kv_heads + 1) if not kv_heads % n and not heads % n]
        raise ConfigError(
            f"tensor_parallel={size} does not divide the model's {kv_heads} KV heads (and "
            f"{heads} query heads); choose {', '.join(map(str, works))}, or spread layers instead "
            "with device_map='auto'."
        )


def build_split(config: Any, ranks: Ranks, dtype: torch.dtype) -> nn.Module:
    """This process's part of a causal language model on its device, weights not yet written.

    Raises:
        ConfigError: see `check_split`.
    """
    from transformers import AutoModelForCausalLM

    check_split(config, ranks.size)
    config = copy.deepcopy(config)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.tie_weights()
    with torch.device(ranks.device):
        _computed_buffers(model)
    whole = dict(model.named_parameters())  # kept alive: their ids are the keys of `pieces`
    pieces: dict[int, nn.Parameter] = {}
    for name, module in list(model.named_modules()):
        parent_name, _, kind = name.rpartition(".")
        made = _piece(module, kind, ranks, pieces)
        if made is not module:
            setattr(model.get_submodule(parent_name), kind, made)
    del whole
    mark(model, ranks)
    return model.eval()


def fill(
    model: nn.Module, ranks: Ranks, weights: Iterable[tuple[str, Sliceable]], where: str = "model"
) -> nn.Module:
    """Write a built part's weights from the whole ones (name, tensor), slice by slice.

    Raises:
        CheckpointError: a weight that the model needs is missing, or has another shape; `where`
            names the checkpoint.
    """
    places = dict(model.named_parameters(remove_duplicate=False))
    missing = {id(parameter): name for name, parameter in places.items()}
    for name, whole in weights:
        parameter = places.get(name)
        if parameter is None and name.endswith(".inv_freq"):
            continue  # computed from the configuration
        if parameter is None:
            raise CheckpointError(
                f"{where} holds a tensor {name} that the model has no place for; check that "
                "config.json belongs to these weights."
            )
        part = whole[_slices(name, ranks, whole)]
        if part.shape != parameter.shape:
            raise CheckpointError(
                f"{name} of {where} has {list(part.shape)} values a process where the model needs "
                f"{list(parameter.shape)}; check that config.json belongs to these weights."
            )
        with torch.no_grad():
            parameter.copy_(part)
        missing.pop(id(parameter), None)
    if missing:
        raise CheckpointError(
            f"the files of {where} lack {len(missing)} tensors of the model (first: "
            f"{min(missing.values())}), which would stay random; fetch the model again."
        )
    return model


def split(model: Any, ranks: Ranks) -> nn.Module:
    """This process's part of a whole model, which stays as it is.

    Raises:
        ConfigError: see `check_split`.
    """
    part: Any = build_split(model.config, ranks, next(model.parameters()).dtype)
    part.generation_config = model.generation_config
    return fill(part, ranks, model.state_dict().items())


def _piece(
    module: nn.Module, kind: str, ranks: Ranks, pieces: dict[int, nn.Parameter]
) -> nn.Module:
    """The local form of a module; one without weights of its own is kept."""

    def local(parameter: Any, dim: int | None) -> Any:
        if parameter is None:
            return None
        if id(parameter) not in pieces:
            shape = list(parameter.shape)
            if dim is not None:
                part = ranks.part(shape[dim])
                shape[dim] = part.stop - part.start
            empty = torch.empty(shape, dtype=parameter.dtype, device=ranks.device)
            pieces[id(parameter)] = nn.Parameter(empty, requires_grad=False)
        return pieces[id(parameter)]

    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if kind in ROWS:
        return RowLinear(local(weight, 1), local(bias, None), ranks)
    if kind == "embed_tokens":
        return SplitEmbedding(local(weight, 0), ranks, len(weight))  # type: ignore[arg-type]
    if kind == "lm_head":
        return SplitHead(local(weight, 0), local(bias, 0), ranks, len(weight))  # type: ignore
    for name, parameter in list(module._parameters.items()):
        module._parameters[name] = local(parameter, 0 if kind in COLUMNS else None)
    return module


def _slices(name: str, ranks: Ranks, whole: Any) -> Any:
    """Which part of a whole weight belongs here."""
    module, _, role = name.rpartition(".")
    kind = module.rpartition(".")[2]
    shape = whole.get_shape() if hasattr(whole, "get_shape") else whole.shape
    if kind in ROWS:
        return (slice(None), ranks.part(shape[1])) if role == "weight" else slice(None)
    if kind in COLUMNS or kind in VOCABULARY:
        return ranks.part(shape[0])
    return slice(None)


def _computed_buffers(model: nn.Module) -> None:
    """Buffers that no checkpoint holds (RoPE frequencies) are made anew by their modules."""
    for name, module in list(model.named_modules()):
        buffers = [b for b in module._buffers.values() if b is not None]
        if buffers:
            parent = model.get_submodule(name.rpartition(".")[0])
            made = type(module)(config=module.config)  # type: ignore[operator,call-arg]
            setattr(parent, name.rpartition(".")[2], made)
