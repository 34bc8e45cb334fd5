"""A checkpoint spread over the processes of torchrun: each reads its own slices."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reattention_eval.checkpoints import internlm2
from reattention_eval.checkpoints.folder import check_folder
from reattention_eval.checkpoints.hub import hub_folder
from reattention_eval.checkpoints.load import finished, pick_dtype
from reattention_eval.checkpoints.read import (
    local_or_hub,
    read_config,
    read_settings,
    read_tokenizer,
)
from reattention_eval.checkpoints.shards import read_tensors
from reattention_eval.errors import ConfigError
from reattention_eval.parallel import build_split, check_split, fill, join
from reattention_eval.versions import check_transformers

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_split_model(
    path: str | os.PathLike[str],
    tensor_parallel: int,
    dtype: str | torch.dtype = "auto",
    device_map: Any = None,
    configure: Callable[[Any], Any] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """This process's part of the model, on its GPU (or CPU), and the tokenizer.

    Tensors are mapped from disk, and a process copies only what it keeps.

    Args:
        path, dtype, configure: as for `load_model`.
        tensor_parallel: processes that share the model; torchrun started as many.
        device_map: must be left out: every process has one device.

    Raises:
        ConfigError: the size does not divide the heads, the processes are not there, a device_map.
        CheckpointError: as for `load_model`.
    """
    if device_map is not None:
        raise ConfigError(
            f"tensor_parallel={tensor_parallel} and device_map={device_map!r} are two ways to use "
            "several GPUs; leave one of them out."
        )
    check_transformers()
    source = local_or_hub(path)
    if isinstance(source, Path):
        check_folder(source)
    settings = read_settings(source)
    config = read_config(source, settings)
    if configure is not None:
        config = configure(config)
    check_split(config, tensor_parallel)
    ranks = join(tensor_parallel)
    tokenizer = read_tokenizer(source)
    folder = source if isinstance(source, Path) else hub_folder(source, weights=True)
    other = settings.get("model_type") == internlm2.MODEL_TYPE
    tensors = internlm2.llama_tensors(folder, config) if other else read_tensors(folder)  # type: ignore[arg-type]
    model: Any = build_split(config, ranks, pick_dtype(dtype))
    fill(model, ranks, tensors, str(source))
    return finished(model, folder), tokenizer
