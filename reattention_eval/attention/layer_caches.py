"""A hook's cache: one for each layer of the model, in the tier that its method can have."""

from __future__ import annotations

from collections.abc import Sequence

from reattention_eval.attention.model_parts import AttentionLayer
from reattention_eval.attention.policy import ViewPolicy, ViewsTogether
from reattention_eval.cache import DEVICE, HostTier, LayerCache
from reattention_eval.cache.alike import Alike
from reattention_eval.parallel import Ranks


def layer_caches(
    layers: Sequence[AttentionLayer], policy: ViewPolicy, tier: str, ranks: Ranks | None
) -> tuple[list[LayerCache], HostTier | None]:
    """Empty caches; the tier is None where all keys and values stay on the devices.

    Args:
        tier: as `attach` takes it.
        ranks: of the processes that share the model; None: this one alone.
    """
    answered = [i for i, layer in enumerate(layers) if layer.window is None]
    depths = {layer: (depth, len(answered)) for depth, layer in enumerate(answered)}
    host = None if tier == DEVICE else _host_tier(policy, tier, ranks.size if ranks else 1)
    join, alike = ranks.join if ranks else None, Alike()
    caches = [
        # a window's values are read whole at every step
        LayerCache(i, join, host if i in depths else None, depths.get(i, (0, 1)), to_come, alike)
        for i, to_come in enumerate(_layers_to_come(layers))
    ]
    return caches, host


def _host_tier(policy: ViewPolicy, name: str, processes: int) -> HostTier:
    if isinstance(policy, ViewsTogether):
        return HostTier(policy.first_tokens, policy.fetched_keys, name, processes)
    return HostTier(0, None, name, processes)


def _layers_to_come(layers: Sequence[AttentionLayer]) -> list[int]:
    """For each layer, how many from it on are on its device."""
    devices = [next((p.device for p in layer.module.parameters()), None) for layer in layers]
    return [devices[i:].count(device) for i, device in enumerate(devices)]
