"""A model and its tokenizer from a folder or the hub, refused early when something is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from reattention_eval.checkpoints import internlm2
from reattention_eval.checkpoints.embedded import ensure_embedded_model
from reattention_eval.checkpoints.folder import check_folder
from reattention_eval.checkpoints.hub import first_line, from_hub, hub_error, hub_folder
from reattention_eval.checkpoints.load_checks import check_device_map, check_model
from reattention_eval.checkpoints.local import is_embedded
from reattention_eval.checkpoints.quantization import (
    quantization_of,
    refuse_second,
    require_reader,
)
from reattention_eval.checkpoints.read import (
    local_or_hub,
    read_config,
    read_settings,
    read_tokenizer,
)
from reattention_eval.checkpoints.streaming import build_streaming
from reattention_eval.errors import CheckpointError, ConfigError
from reattention_eval.versions import check_transformers

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# tensors of old checkpoints that models compute by themselves
COMPUTED = (".inv_freq", ".masked_bias", ".attention.bias", ".attn.bias")
_DTYPES = ("auto", "bfloat16", "float16", "float32", "float64")


@overload
def load_model(
    path: str | os.PathLike[str],
    dtype: str | torch.dtype = ...,
    device_map: Any = ...,
    tokenizer_only: Literal[False] = ...,
    attn_implementation: str = ...,
    configure: Callable[[Any], Any] | None = ...,
    quantization: Mapping[str, Any] | None = ...,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]: ...
@overload
def load_model(
    path: str | os.PathLike[str],
    dtype: str | torch.dtype = ...,
    device_map: Any = ...,
    tokenizer_only: bool = ...,
    attn_implementation: str = ...,
    configure: Callable[[Any], Any] | None = ...,
    quantization: Mapping[str, Any] | None = ...,
) -> tuple[PreTrainedModel | None, PreTrainedTokenizerBase]: ...
def load_model(
    path: str | os.PathLike[str],
    dtype: str | torch.dtype = "auto",
    device_map: Any = None,
    tokenizer_only: bool = False,
    attn_implementation: str = "sdpa",
    configure: Callable[[Any], Any] | None = None,
    quantization: Mapping[str, Any] | None = None,
) -> tuple[PreTrainedModel | None, PreTrainedTokenizerBase]:
    """The model, in eval mode, and its tokenizer; with `tokenizer_only` the model is None.

    InternLM2 checkpoints come out as Llama models (`internlm2`); no checkpoint's own code is run.

    Args:
        path: a local folder in Hugging Face layout, a hub id, or an embedded model's name, which is
            fetched if it is not there (`ensure_embedded_model`).
        dtype: "auto" is bfloat16 where the hardware computes in it, else float32 (float16 on a GPU
            without bfloat16); or a dtype or its name.
        device_map: as transformers takes it; None loads to the CPU.
        attn_implementation: as transformers takes it, for what runs without a view method.
        configure: gives the configuration to load with from the checkpoint's own, as
            `NativeMethod.configure` does.
        quantization: of the weights while they load, as transformers describes it in a config.json
            (`quantization_of`); None: as the checkpoint has them.

    Raises:
        CheckpointError: folder, config, a shard or the tokenizer missing; a truncated file;
            weights that the model needs and the files lack, or that the files hold and the model
            has no place for; a damaged generation_config.json; a model without rotary position
            embedding; a hub that refuses or cannot be reached; a transformers version outside
            4.57 to 5.x.
        ConfigError: unknown dtype; a device that is not here; a model that `attach` serves no
            method on (of images and text, with latent attention); an attention that cannot run; a
            quantisation that is unknown, whose library is missing, or of weights that are quantised
            or are InternLM2's.
        DownloadError: as `ensure_embedded_model`.
    """
    check_transformers()
    check_device_map(device_map)
    source = ensure_embedded_model(str(path)) if is_embedded(path) else local_or_hub(path)
    if isinstance(source, Path):
        check_folder(source, weights=not tokenizer_only)
    settings = read_settings(source)
    quantized = None
    if quantization is not None and not tokenizer_only:
        _refuse_quantization(settings, str(path))
        quantized = quantization_of(quantization, device_map)
    elif not tokenizer_only:
        require_reader(settings, str(path), device_map)
    if settings.get("model_type") == internlm2.MODEL_TYPE and isinstance(source, str):
        source = hub_folder(source, weights=not tokenizer_only)
    config = read_config(source, settings)
    if not tokenizer_only:
        check_model(config, source, attn_implementation)
    if configure is not None:
        config = configure(config)
    tokenizer = read_tokenizer(source)
    if tokenizer_only:
        return None, tokenizer
    torch_dtype = pick_dtype(dtype)
    if isinstance(source, Path) and settings.get("model_type") == internlm2.MODEL_TYPE:
        model = build_streaming(
            config,
            internlm2.llama_tensors(source, config),
            where=str(source),
            dtype=torch_dtype,
            device_map=device_map,
            attn_implementation=attn_implementation,
        )
        return finished(model, source), tokenizer

    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=torch_dtype,
            device_map=device_map,
            attn_implementation=attn_implementation,
            output_loading_info=True,
            **({} if quantized is None else {"quantization_config": quantized}),
        )
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        if isinstance(source, str) and from_hub(error):
            raise hub_error(source, "its weights", error) from error
        raise CheckpointError(
            f"the weights of {source} do not load ({first_line(error)}); "
            "check that config.json belongs to these weights, or fetch the model again."
        ) from error
    model, report = loaded
    if beyond := sorted(k for k in report["unexpected_keys"] if not k.endswith(COMPUTED)):
        raise CheckpointError(
            f"the files of {source} hold {len(beyond)} tensors that the model has no place for "
            f"(first: {beyond[0]}), as when config.json names fewer layers than there are; "
            "check that config.json belongs to these weights."
        )
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"the files of {source} lack {len(missing)} tensors of the model (first: {missing[0]}),"
            " which would stay random; fetch the model again."
        )
    return model.eval(), tokenizer


def load(
    path: str | os.PathLike[str],
    dtype: str | torch.dtype = "auto",
    device_map: Any = None,
    attn_implementation: str = "sdpa",
    configure: Callable[[Any], Any] | None = None,
    quantization: Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """The model alone, for `attach(load("qwen2.5-coder-1.5b-q4"), ...)`.

    Arguments and errors are those of `load_model`; `load_tokenizer` gives what belongs to it.
    """
    return load_model(
        path,
        dtype=dtype,
        device_map=device_map,
        attn_implementation=attn_implementation,
        configure=configure,
        quantization=quantization,
    )[0]


def load_tokenizer(path: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    """The tokenizer alone; paths and errors are those of `load_model`."""
    return load_model(path, tokenizer_only=True)[1]


def pick_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The torch dtype of a name; "auto" asks the hardware."""
    import torch

    if isinstance(dtype, torch.dtype):
        return dtype
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}; choose from {', '.join(_DTYPES)}.")
    if name != "auto":
        return getattr(torch, name)  # type: ignore[no-any-return]
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    # elsewhere a CPU emulates bfloat16, several times slower than float32
    asks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    native = any(getattr(torch.cpu, ask, bool)() for ask in asks)
    return torch.bfloat16 if native else torch.float32


def _refuse_quantization(settings: Mapping[str, Any], where: str) -> None:
    refuse_second(settings, where)
    if settings.get("model_type") == internlm2.MODEL_TYPE:
        raise ConfigError(
            f"{where} is an InternLM2 checkpoint, whose weights are rearranged while they load and "
            "cannot be quantised meanwhile; leave quantization out."
        )


def finished(model: PreTrainedModel, source: Path) -> PreTrainedModel:
    """In eval mode, with the checkpoint's own generation settings."""
    from transformers import GenerationConfig

    if (source / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(source)
    return model.eval()
