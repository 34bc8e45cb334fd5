"""The tensors of a checkpoint folder, one at a time, whatever files hold them."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from reattention_eval.checkpoints.folder import weight_files
from reattention_eval.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor


def read_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of every tensor, file by file; tensors are mapped from disk, not read ahead.

    Raises:
        CheckpointError: no weights, a missing shard, or a file that cannot be read.
    """
    for name in weight_files(folder):
        path = folder / name
        yield from _safetensors(path) if path.suffix == ".safetensors" else _archive(path)


def _safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt", device="cpu") as file:
        for name in file.keys():  # noqa: SIM118  (no mapping)
            yield name, file.get_tensor(name)


def _archive(path: Path) -> Iterator[tuple[str, Tensor]]:
    import torch

    try:
        tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds Python objects besides tensors, which could run code and are not "
            "loaded; use a checkpoint in safetensors format."
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path} is not a whole file of tensors ({first[:200]}); fetch the model again."
        ) from error
    if not isinstance(tensors, dict) or not all(map(torch.is_tensor, tensors.values())):
        raise CheckpointError(
            f"{path} is no file of named tensors (it holds a {type(tensors).__name__}); fetch the "
            "model again."
        )
    yield from tensors.items()
