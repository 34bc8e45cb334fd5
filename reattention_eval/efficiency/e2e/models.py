"""The model that is measured: a checkpoint, or random weights in the shape of one of the nine."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from reattention_eval.checkpoints import internlm2, load_model
from reattention_eval.checkpoints.embedded_models import EMBEDDED_MODELS
from reattention_eval.checkpoints.load import pick_dtype
from reattention_eval.checkpoints.local import is_embedded
from reattention_eval.checkpoints.paper_models import PaperModel, find_paper_model
from reattention_eval.efficiency.shape import published_config, shape_of
from reattention_eval.errors import ConfigError, DeviceMemoryError
from reattention_eval.machine_memory import GIB, free_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SEED = 0
Configure = Callable[[Any], Any]


def bench_model(
    name: str, device: torch.device, dtype: str = "auto", configure: Configure | None = None
) -> PreTrainedModel:
    """The model, in eval mode, on `device`.

    Args:
        name: a checkpoint's folder, an embedded model, or one of the paper's models (as
            LLaMA3.1-8B, llama3_1_8b or meta-llama/Llama-3.1-8B), which gets random weights.
        dtype: of weights and cache; "auto" is bfloat16 where the hardware computes in it.
        configure: as `load_model` takes it.

    Raises:
        ConfigError: no such model or dtype.
        CheckpointError: the folder does not load.
        DeviceMemoryError: the device has too little memory for random weights.
    """
    check_name(name)
    if is_checkpoint(name):
        source = name if is_embedded(name) else Path(name).expanduser()
        model, _ = load_model(source, dtype=dtype, configure=configure)
        return model.to(device)  # type: ignore[arg-type]
    config = published_config(paper_model(name).hub)
    assert config is not None
    _require_room(name, shape_of(config).parameters * pick_dtype(dtype).itemsize, device)
    return random_model(config, device, dtype, configure)


def _require_room(name: str, weights: int, device: torch.device) -> None:
    free = free_bytes(device)
    if free is not None and weights > free:
        raise DeviceMemoryError(
            f"the weights of {name} take {weights / GIB:.1f} GiB and {free / GIB:.1f} are free on "
            f"{device}; give a smaller model, or another --device."
        )


def check_name(name: str) -> None:
    """Raise ConfigError unless `bench_model` knows the name."""
    if not is_checkpoint(name):
        paper_model(name)


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
    config: dict[str, Any], device: torch.device, dtype: str, configure: Configure | None = None
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
    with device:
        model = AutoModelForCausalLM.from_config(
            settings, dtype=pick_dtype(dtype), attn_implementation="sdpa"
        )
    return model.eval()  # type: ignore[no-any-return]


def about_model(name: str, model: PreTrainedModel) -> dict[str, Any]:
    """What a record says of model and device; those of two differing ones are not mixed."""
    loaded = is_checkpoint(name)
    return {
        "model": Path(name).expanduser().resolve().name if loaded else paper_model(name).abbr,
        "weights": "of the checkpoint" if loaded else f"random, seed {SEED}",
        "dtype": str(model.dtype).removeprefix("torch."),
        "shape": shape_of(model.config.to_dict()).as_dict(),
        "weight_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
        "device": device_name(model.device),
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()
