"""The model that is measured: a checkpoint, or random weights in the shape of one of the nine."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reattention_eval.checkpoints import internlm2, load_model
from reattention_eval.checkpoints.embedded_models import EMBEDDED_MODELS, find_embedded_model
from reattention_eval.checkpoints.load import pick_dtype
from reattention_eval.checkpoints.local import is_embedded
from reattention_eval.checkpoints.paper_models import PaperModel, find_paper_model
from reattention_eval.efficiency.e2e.int8_weights import int8_model, require_torchao
from reattention_eval.efficiency.shape import ModelShape, published_config, shape_of
from reattention_eval.errors import ConfigError, DeviceMemoryError
from reattention_eval.machine_memory import GIB, free_bytes
from reattention_eval.weight_parts import held_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SEED = 0
INT8 = "int8"
Configure = Callable[[Any], Any]


def bench_model(
    name: str,
    device: torch.device,
    dtype: str = "auto",
    configure: Configure | None = None,
    weights: str | None = None,
) -> PreTrainedModel:
    """The model, in eval mode, on `device`.

    Args:
        name: a checkpoint's folder, an embedded model, or one of the paper's models (as
            LLaMA3.1-8B, llama3_1_8b or meta-llama/Llama-3.1-8B), which gets random weights.
        dtype: of weights and cache; "auto" is bfloat16 where the hardware computes in it.
        configure: as `load_model` takes it.
        weights: "int8" makes random weights as torchao's; None in `dtype`.

    Raises:
        ConfigError: no such model or dtype, or it is not random.
        CheckpointError: the folder does not load.
        DeviceMemoryError: the device has too little memory for random weights.
    """
    check_name(name, weights)
    if is_checkpoint(name):
        source = name if is_embedded(name) else Path(name).expanduser()
        model, _ = load_model(source, dtype=dtype, configure=configure)
        return model.to(device)  # type: ignore[arg-type]
    config = published_config(paper_model(name).hub)
    assert config is not None
    _require_room(name, _shape(config, weights).bytes(pick_dtype(dtype).itemsize), device)
    return random_model(config, device, dtype, configure, weights)


def _shape(config: dict[str, Any], weights: str | None) -> ModelShape:
    shape = shape_of(config)
    return replace(shape, weight_bits=8.0) if weights == INT8 else shape


def _require_room(name: str, weights: int, device: torch.device) -> None:
    free = free_bytes(device)
    if free is not None and weights > free:
        raise DeviceMemoryError(
            f"the weights of {name} take {weights / GIB:.1f} GiB and {free / GIB:.1f} are free on "
            f"{device}; give a smaller model, or another --device."
        )


def check_name(name: str, weights: str | None = None) -> None:
    """Raise ConfigError unless `bench_model` knows the name, and can make it of such weights."""
    if not is_checkpoint(name):
        paper_model(name)
    if weights not in (None, INT8):
        raise ConfigError(f"unknown weights {weights!r:.80}; there is {INT8}.")
    if weights and is_checkpoint(name):
        raise ConfigError(
            f"{name} has weights of its own; --weights {weights} is for random ones. A quantised "
            "checkpoint is measured as it lies."
        )
    if weights:
        require_torchao()


def is_checkpoint(name: str) -> bool:
    """Whether a model of that name has weights of its own."""
    return is_embedded(name) or Path(name).expanduser().is_dir()


def paper_model(name: str) -> PaperModel:
    """One of the paper's models, by its abbreviation, its key or its hub id.

    Raises:
        ConfigError: none of them.
    """
    if model := find_paper_model(name):
        return model
    raise ConfigError(
        f"{name} is neither a folder nor one of the paper's models; give the folder of a "
        f"checkpoint, an embedded model ({', '.join(EMBEDDED_MODELS)}), or a name as LLaMA3.1-8B "
        "or meta-llama/Llama-3.1-8B."
    )


def random_model(
    config: dict[str, Any],
    device: torch.device,
    dtype: str,
    configure: Configure | None = None,
    weights: str | None = None,
) -> PreTrainedModel:
    """Random weights, always the same, in the shape that a config.json describes."""
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = dict(config)
    kind = fields.pop("model_type")
    settings: Any
    if kind == internlm2.MODEL_TYPE:
        settings = internlm2.llama_config(config, "this model")
    else:
        settings = AutoConfig.for_model(kind, **fields)
    if configure is not None:
        settings = configure(settings)
    torch.manual_seed(SEED)
    if weights == INT8:
        return int8_model(settings, device, pick_dtype(dtype))
    with device:
        model = AutoModelForCausalLM.from_config(
            settings, dtype=pick_dtype(dtype), attn_implementation="sdpa"
        )
    return model.eval()  # type: ignore[no-any-return]


def model_name(name: str) -> str:
    """As records and documents call it, whichever name a command was given.

    Raises:
        ConfigError: as `paper_model`.
    """
    if is_embedded(name):
        return find_embedded_model(name).label
    if is_checkpoint(name):
        return Path(name).expanduser().resolve().name
    return paper_model(name).abbr


def about_model(name: str, model: PreTrainedModel, weights: str | None = None) -> dict[str, Any]:
    """What a record says of model and device; those of two differing ones are not mixed."""
    made = "of the checkpoint" if is_checkpoint(name) else f"random, seed {SEED}"
    return {
        "model": model_name(name),
        "weights": ", ".join(filter(None, [made, weights])),
        "dtype": str(model.dtype).removeprefix("torch."),
        "shape": _shape(model.config.to_dict(), weights).as_dict(),
        "weight_bytes": held_bytes(model),
        "device": device_name(model.device),
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()
