"""Whether a method can serve a model, by the model's configuration: before its weights are loaded
(`fitting`), and again when the method is attached (`fit`)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from reattention_eval.cache import AUTO, DEVICE, TIERS
from reattention_eval.context_length import known_context_length
from reattention_eval.errors import ConfigError
from reattention_eval.methods import Method, NativeMethod, ViewMethod

CACHES = (*TIERS, AUTO)


def fit(method: Method, config: Any) -> Method:
    """The method as it is on a model that was, or will be, loaded with `config` (of transformers).

    Raises:
        ConfigError: it cannot run here, or not serve that model: a scope beyond its trained window,
            too few layers, a family that it was not written for, a native method's configuration
            that is not applied.
    """
    method.check_machine()
    if isinstance(method, NativeMethod):
        _require_configured(method, config)
    context_length = known_context_length(config)
    method = method.on(context_length)
    method.check(context_length)
    method.check_config(config)
    return method


def fitting(method: Method) -> Callable[[Any], Any]:
    """`configure` for loading a model that the method will be attached to: `fit` is asked first."""

    def configured(config: Any) -> Any:
        if isinstance(method, NativeMethod):
            config = method.configure(config)
        fit(method, config)
        return config

    return configured


def check_cache(cache: str, method: Method | None = None, processes: int = 1) -> None:
    """Raise ConfigError where keys and values cannot be, or those of a method; see `attach`.

    processes: that share the model.
    """
    if cache not in CACHES:
        raise ConfigError(f"unknown cache {cache!r:.80}; there are: {', '.join(CACHES)}.")
    if method and cache not in (DEVICE, AUTO) and not isinstance(method, ViewMethod):
        raise ConfigError(
            f"{method.name} keeps keys and values in the model's own cache, which is on the "
            'device; take cache="device", or a method on the hook (full, reattention, '
            "streaming_llm)."
        )
    if processes > 1 and cache == AUTO and isinstance(method, ViewMethod):
        raise ConfigError(  # they would have to choose alike
            f'cache="auto" looks at the memory of one process, and {processes} share this model; '
            'take "device", "values_on_host" or "host" (`reattention-eval plan` says which fits).'
        )


def check_processes(method: Method, processes: int) -> None:
    """Raise ConfigError where the method cannot run on a model that so many processes share."""
    if processes > 1 and method.one_process:
        raise ConfigError(
            f"{method.name} runs in one process, and {processes} share this model "
            "(tensor_parallel); use one, or another method."
        )


def _require_configured(method: NativeMethod, config: Any) -> None:
    own = config.to_dict()
    wanted = method.configure(copy.deepcopy(config)).to_dict()
    changed = sorted(name for name in {*own, *wanted} if own.get(name) != wanted.get(name))
    if changed:
        raise ConfigError(
            f"{method.name} changes the model's configuration ({', '.join(changed)}), which has to "
            f"happen before it is loaded: method = build_method({method.name!r}), then "
            "attach(load(path, configure=method.configure), method)."
        )
