"""One checkpoint under one method, loaded and attached until it is closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reattention_eval.checkpoints.load import pick_dtype
from reattention_eval.checkpoints.split_model import load_split_model
from reattention_eval.context_length import context_length
from reattention_eval.engine import Session, attach
from reattention_eval.engine.fit import check_cache, check_processes, fitting
from reattention_eval.engine.kernels_ahead import compiling
from reattention_eval.errors import (
    ConfigError,
    DeviceMemoryError,
    HostMemoryError,
    ReAttentionError,
)
from reattention_eval.harness.fingerprint import plain, weights_sample
from reattention_eval.harness.memory_check import out_of_host_memory, out_of_memory
from reattention_eval.machine_memory import is_host_full, shared_gpu
from reattention_eval.methods import build_method, method_settings
from reattention_eval.parallel import ranks_of


class AttachedModel:
    """A model, its tokenizer and a session on it, by as many processes as share the model.

    Its arguments and errors are `PromptRunner`'s.
    """

    def __init__(
        self,
        path: str,
        method: Mapping[str, Any] | None,
        *,
        dtype: str,
        device_map: Any,
        tensor_parallel: int,
        quantization: Mapping[str, Any] | None,
        cache: str,
        stop_token_ids: Sequence[int],
        name: str | None,
        tokenizer_only: bool,
        loader: Callable[..., Any],
    ) -> None:
        self.path = path
        self.method = build_method(plain(method or {"type": "full"}))
        self.quantization = None if quantization is None else plain(quantization)
        self.cache = cache
        self.name = name or Path(path.rstrip("/")).name or path
        self._stack = ExitStack()
        self.model: PreTrainedModel
        self.tokenizer: PreTrainedTokenizerBase
        self.session: Session
        self._open = False
        self.weights: str | None = None
        loaded: PreTrainedModel | None
        self.trained_window: int | None = None
        configure: Callable[[Any], Any] = self._configure
        check_cache(cache, self.method, tensor_parallel)
        check_processes(self.method, tensor_parallel)
        if not tokenizer_only:
            self.method.check_machine()
            dtype_here = pick_dtype(dtype)
            configure = compiling(self._fitted, self.method, dtype_here, tensor_parallel, cache)
        if quantization is not None:
            if tensor_parallel > 1:
                raise ConfigError(
                    f"quantised weights are not split over tensor_parallel={tensor_parallel} "
                    "processes; leave one of them out, or spread layers (device_map='auto')."
                )
            if device_map is None and torch.cuda.is_available():
                device_map = {"": 0}  # quantised there, and not moved afterwards
        if tensor_parallel > 1 and not tokenizer_only:
            loaded, self.tokenizer = load_split_model(
                path, tensor_parallel, dtype, device_map, configure
            )
        else:
            loaded, self.tokenizer = loader(
                path,
                dtype=dtype,
                device_map=device_map,
                tokenizer_only=tokenizer_only,
                configure=configure,
                quantization=self.quantization,
            )
        self.ranks = None if loaded is None else ranks_of(loaded)
        self.stop_token_ids: list[int] = []
        if loaded is None:
            return
        self.model = loaded
        self.weights = weights_sample(path, loaded.config)
        if device_map is None and not self.ranks and torch.cuda.is_available():
            self.model.to("cuda")  # type: ignore[arg-type]  # its stub is wrapped
        own = _eos_ids(self.model, self.tokenizer)
        self.stop_token_ids = sorted({*stop_token_ids, *own})
        self.session = self._stack.enter_context(attach(self.model, self.method, cache=cache))
        self.method = self.session.method  # with what follows from the model's window
        self._open = True

    def _configure(self, config: Any) -> Any:
        self.trained_window = context_length(config)  # a method may scale it
        return config

    def _fitted(self, config: Any) -> Any:
        return fitting(self.method)(self._configure(config))

    def get_token_len(self, prompt: str) -> int:
        """Tokens of `prompt` by itself, with the tokenizer's own special tokens."""
        return len(self.tokenizer(str(prompt), verbose=False)["input_ids"])

    def forget(self) -> None:
        """The next prompt is read from its beginning, whatever it shares with the last one."""
        self._together("_forget")

    def _forget(self) -> None:
        self.session.reset()

    def _together(self, name: str, *call: Any) -> Any:
        """A method's result, computed by every process that shares the model."""
        if not self._open:
            raise ConfigError("this model was built with tokenizer_only=True; it cannot generate.")
        if not self.ranks:
            return getattr(self, name)(*call)
        try:
            name, call = self.ranks.tell((name, call))
            return getattr(self, name)(*call)
        except ReAttentionError:
            raise  # the other processes met it too
        except Exception as error:
            # they may wait in the middle of a forward: torchrun ends them with this process
            raise SystemExit(f"{type(error).__name__} under tensor parallel: {error}") from error

    def follow(self) -> None:
        """Compute what the first process computes until it closes its runner."""
        assert self.ranks is not None
        while (call := self.ranks.tell()) is not None:
            with suppress(ReAttentionError):  # the first process reports it
                name, arguments = call
                getattr(self, name)(*arguments)
        self.ranks = None
        self.close()

    def close(self) -> None:
        """Give the model its own attention back; `generate` no longer works."""
        if self.ranks:
            self.ranks.tell(None)
            self.ranks = None
        if self._open:
            self._open = False
            del self.session  # and its cache
        self._stack.close()

    @contextmanager
    def _fit_for_the_next(self, rows: int, tokens: int) -> Iterator[None]:
        """What is raised inside leaves nothing behind; full memory says how to make room."""
        try:
            yield
        except BaseException as error:
            full = isinstance(error, (torch.OutOfMemoryError, DeviceMemoryError))
            shared = shared_gpu() if full else None  # before anything is given back
            self.session.reset()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if full and not _is_of_a_cpu(error, self.model):
                raise out_of_memory(self._entry(rows), tokens, shared) from error
            if is_host_full(error) and not self.ranks:  # of which the others may have had enough
                said = out_of_host_memory(self._entry(rows), tokens, self._held_of_host())
                raise HostMemoryError(said) from error
            raise

    def _held_of_host(self) -> int:
        """Bytes of main memory that the weights and the cache have."""
        own = [x for x in self.model.parameters() if x.device.type == "cpu"]
        stats, on_host = self.session.stats, self.model.device.type == "cpu"
        cache = stats.cache_host_bytes + (stats.cache_bytes if on_host else 0)
        return cache + sum(x.numel() * x.element_size() for x in own)

    def _entry(self, rows: int) -> dict[str, Any]:
        """What a configuration's entry for this model says of its memory."""
        return {
            "path": self.path,
            "abbr": self.name,
            "method": method_settings(self.method),
            "dtype": str(self.model.dtype),
            "device_map": getattr(self.model, "hf_device_map", None),
            "batch_size": rows,
            "quantization": self.quantization,
            "cache": self.cache,
        }


def _is_of_a_cpu(error: BaseException, model: PreTrainedModel) -> bool:
    """Whether it says of a machine without GPUs what there is, and what fits."""
    return isinstance(error, DeviceMemoryError) and model.device.type == "cpu"


def _eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The generation settings', or the configuration's; and the tokenizer's, with which chat
    checkpoints end their turns that were tuned from one that ends texts."""
    found = getattr(model.generation_config, "eos_token_id", None)
    if found is None:
        found = getattr(model.config, "eos_token_id", None)
    ids = list(found) if isinstance(found, (list, tuple)) else [found]
    return [int(i) for i in (*ids, tokenizer.eos_token_id) if i is not None]
