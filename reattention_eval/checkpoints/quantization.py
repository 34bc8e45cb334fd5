"""Quantised weights by transformers' own configurations, refused before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reattention_eval.checkpoints.hub import first_line
from reattention_eval.errors import ConfigError

KEY = "quantization_config"  # of a config.json
# bits of a linear layer's weight, scales of groups included, by `quant_method` and what tells more
_BITS_OF_TYPES = (("int8", 8.0), ("float8", 8.0), ("fp8", 8.0), ("int4", 4.5), ("mxfp4", 4.25))
_BITS_OF_METHODS = {"fp8": 8.0, "fbgemm_fp8": 8.0, "eetq": 8.0, "mxfp4": 4.25}


def quantization_of(settings: Any, device_map: Any = None) -> Any:
    """transformers' configuration of the quantisation that `settings` describe.

    Args:
        settings: its JSON form, as `quantization_config` of a config.json has it: `quant_method`
            and what that method takes.
        device_map: where the model will be loaded.

    Raises:
        ConfigError: no such method, settings it does not take, a checkpoint that would have to be
            quantised already, a library or device that is missing.
    """
    check_named(settings)
    try:
        return _configured(settings, device_map, ready=False)
    except Exception as error:  # each library's own way to refuse
        raise ConfigError(
            f"weights cannot be quantised by {method_name(settings)} here: {first_line(error)}. "
            "Install what is missing (torchao: pip install 'reattention-eval[torchao]') or correct "
            "the settings."
        ) from error


def check_named(settings: Any) -> None:
    """Raise ConfigError unless `settings` name a method that transformers knows; what that method
    needs may be elsewhere."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    if not isinstance(settings, Mapping):
        raise ConfigError(
            "quantization must be a mapping as in a config.json's quantization_config, for example "
            "dict(quant_method='bitsandbytes', load_in_8bit=True); found "
            f"{type(settings).__name__}."
        )
    known = sorted({*AUTO_QUANTIZATION_CONFIG_MAPPING, "bitsandbytes"})
    if method_name(settings) not in known:
        raise ConfigError(
            f"quantization names no method that transformers knows (quant_method="
            f"{settings.get('quant_method')!r:.80}); there are: {', '.join(known)}."
        )


def require_reader(config: Mapping[str, Any], where: str, device_map: Any = None) -> None:
    """Raise ConfigError for a checkpoint whose weights are quantised as they lie, in a way that
    transformers knows and nothing here can read."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    held = config.get(KEY)
    if not held or method_name(held) not in (*AUTO_QUANTIZATION_CONFIG_MAPPING, "bitsandbytes"):
        return
    try:
        _configured(held, device_map, ready=True)
    except Exception as error:
        raise ConfigError(
            f"the weights of {where} are quantised by {method_name(held)} and cannot be read here: "
            f"{first_line(error)}. Install what is missing, or take the unquantised checkpoint."
        ) from error


def _configured(settings: Mapping[str, Any], device_map: Any, ready: bool) -> Any:
    """transformers' configuration, when all that it needs is here. ready: weights are quantised."""
    from transformers.quantizers.auto import AutoHfQuantizer, AutoQuantizationConfig

    config = AutoQuantizationConfig.from_dict(dict(settings))
    quantizer = AutoHfQuantizer.from_config(config, pre_quantized=ready)
    quantizer.validate_environment(device_map=device_map, weights_only=True)
    return config


def refuse_second(config: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError for a checkpoint whose weights are quantised as they lie."""
    if held := config.get(KEY):
        raise ConfigError(
            f"the weights of {where} are quantised already, by {method_name(held)}; leave "
            "quantization out."
        )


def method_name(settings: Mapping[str, Any]) -> str:
    """What these settings call their method; bitsandbytes needs no name."""
    loads = any(settings.get(key) for key in ("load_in_8bit", "load_in_4bit"))
    name = settings.get("quant_method") or ("bitsandbytes" if loads else "a method without a name")
    return str(getattr(name, "value", name))


def weight_bits(settings: Mapping[str, Any]) -> float | None:
    """Bits of a quantised linear layer's weight; None where these settings do not tell."""
    name = method_name(settings)
    if name == "bitsandbytes":
        return 8.0 if settings.get("load_in_8bit") else 4.5
    if name in ("gptq", "awq"):
        bits = settings.get("bits")
        return bits + 0.25 if isinstance(bits, int) else None
    if name in _BITS_OF_METHODS:
        return _BITS_OF_METHODS[name]
    kind = settings.get({"torchao": "quant_type", "quanto": "weights"}.get(name, ""))
    if isinstance(kind, Mapping):  # {"default": {"_type": "Int8WeightOnlyConfig", ...}}
        kind = dict(kind.get("default") or {}).get("_type")
    found = [bits for word, bits in _BITS_OF_TYPES if word in str(kind).lower()]
    return min(found) if found else None  # of int4 weights with int8 activations the weights
