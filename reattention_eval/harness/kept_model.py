"""The model that was loaded last, for the next method that is to be loaded alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reattention_eval.checkpoints import load_model
from reattention_eval.checkpoints.load import pick_dtype
from reattention_eval.checkpoints.read import local_or_hub, read_config, read_settings


class KeptModel:
    """`load_model`, but what is asked for in the same way twice running is loaded once.

    `attach` leaves a model as it was, so that methods which load it alike can share it, one after
    another. Give it to each `PromptRunner` as `loader`, the one before closed. A method that
    changes the configuration (`NativeMethod.configure`) has a model of its own.
    """

    def __init__(self) -> None:
        self._key: Any = None
        self._loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None

    def __call__(
        self,
        path: str,
        *,
        dtype: str,
        device_map: Any,
        tokenizer_only: bool,
        configure: Callable[[Any], Any],
        quantization: Mapping[str, Any] | None,
    ) -> tuple[PreTrainedModel | None, PreTrainedTokenizerBase]:
        """Arguments and errors are those of `load_model`."""
        load = partial(
            load_model, path, dtype=dtype, device_map=device_map, configure=configure,
            quantization=quantization,
        )  # fmt: skip
        if tokenizer_only or not Path(path).expanduser().is_dir():
            return load(tokenizer_only=tokenizer_only)
        source = local_or_hub(path)
        config = configure(read_config(source, read_settings(source)))
        key = (
            source, pick_dtype(dtype), repr(device_map), repr(quantization),
            config.to_json_string(use_diff=False),
        )  # fmt: skip
        if self._loaded is None or key != self._key:
            self._loaded = None  # makes room for the next one
            self._loaded = load()
            self._key = key
        return self._loaded
