"""What `cache="auto"` does where neither everything nor all keys have room on a GPU: the keys of as
many layers as it must stand in host memory (`reattention_eval.cache.capacity`)."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import NamedTuple

from reattention_eval.cache import rounded_capacity
from reattention_eval.cache.capacity import SHARE_FOR_CACHE
from reattention_eval.cache.host_keys import SLOTS
from reattention_eval.cache.tiers import HOST, VALUES_ON_HOST
from reattention_eval.efficiency.plan import MemoryPlan, Placement, plan_memory, tiers_of
from reattention_eval.efficiency.shape import ModelShape
from reattention_eval.methods import Method


class AutoPlan(NamedTuple):
    """share: of the layers, those whose keys are in host memory."""

    plan: MemoryPlan
    share: float


def plan_auto(
    shape: ModelShape,
    method: Method,
    tokens: int,
    placement: Placement,
    memory: int,
    rows: int = 1,
) -> AutoPlan | None:
    """Between the tiers "values_on_host" and "host", with `memory` bytes a GPU; None where it is
    one of the tiers itself.

    Raises:
        ConfigError: as `plan_memory`.
    """
    if HOST not in tiers_of(method):
        return None
    asked = shape, method, tokens, placement, rows
    values, keys = (plan_memory(*asked, tier=tier) for tier in (VALUES_ON_HOST, HOST))
    token = shape.kv_heads // placement.tensor_parallel * shape.head_dim * placement.itemsize
    layers, one = ceil(shape.layers / placement.gpus), rows * rounded_capacity(tokens) * token
    room = int(SHARE_FOR_CACHE * max(0, memory - values.weights))
    away = ceil((values.cache + SLOTS * one - room) / one)
    if values.cache <= room or away >= layers:
        return None
    share = away / layers
    return AutoPlan(
        replace(
            values,
            cache=values.cache + (SLOTS - away) * one,
            host=int(values.host + share * (keys.host - values.host)),
        ),
        share,
    )
