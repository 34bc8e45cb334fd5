"""What `plan` says of the cache's tiers and of several GPUs: bytes, transfers, what fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_shape import SMALL, TINY

from reattention_eval import FullAttention, ReAttention
from reattention_eval.cache import TIERS, CacheShape, rounded_capacity, tier_bytes
from reattention_eval.checkpoints.paper_models import PAPER_MODELS
from reattention_eval.efficiency import (
    Placement,
    largest_length,
    plan_memory,
    read_shape,
    tiers_of,
    usable,
)
from reattention_eval.efficiency.cards import CARDS
from reattention_eval.efficiency.forecast import Gpu, forecast
from reattention_eval.efficiency.plan import kept_values
from reattention_eval.efficiency.rates import with_transfers
from reattention_eval.efficiency.work import prompt_transfers, step_transfers
from reattention_eval.machine_memory import GIB
from reattention_eval.methods import build_method

LLAMA_8B = read_shape("meta-llama/Llama-3.1-8B")


def test_what_tiers_move() -> None:
    token = 3 * 2 * 8 * 2
    assert prompt_transfers(TINY, SMALL, 43, 2, "device", 10).meanwhile == 0
    values = prompt_transfers(TINY, SMALL, 43, 2, "values_on_host", 10)
    selecting = [n for n in (20, 25, 30, 35, 40, 43) if SMALL.selects(n)]
    assert values.meanwhile == 43 * token
    assert values.awaited == len(selecting) * 6 * token
    keys = prompt_transfers(TINY, SMALL, 43, 2, "host", 10)
    assert keys.meanwhile == (2 * 43 + 10 + 20 + 30 + 40 + 43) * token
    assert keys.awaited == values.awaited
    # of 34 tokens between the first two and the last eight, six: six of 34 were there before
    step = step_transfers(TINY, SMALL, 43, 2, "values_on_host")
    assert step.awaited == pytest.approx(6 * 28 / 34 * token)
    # the first step beyond the scope selects all there is, as the next does
    assert step_transfers(TINY, SMALL, 16, 2, "values_on_host").awaited == pytest.approx(
        token * 6 / 7
    )
    assert step_transfers(TINY, SMALL, 15, 2, "values_on_host").awaited == 0
    assert step_transfers(TINY, SMALL, 43, 2, "host").meanwhile == 43 * token
    assert with_transfers(2.0, replace(values, meanwhile=30, awaited=5), 10) == 3.5


@pytest.mark.parametrize("tier", TIERS)
def test_tiers_hold_what_the_cache_says(tier: str) -> None:
    method, tokens = ReAttention(), 500_001
    plan = plan_memory(LLAMA_8B, method, tokens, Placement(), tier=tier)
    room = rounded_capacity(tokens)
    held = tier_bytes(CacheShape(32, 8, 128), room, tier, method.budget, 1, 32, 127 * 32)
    assert (plan.cache, plan.host) == held
    memory = usable(CARDS["h100-80g"].memory)
    longest = largest_length(LLAMA_8B, method, Placement(), memory, tier=tier)
    assert plan_memory(LLAMA_8B, method, longest, Placement(), tier=tier).total <= memory
    assert plan_memory(LLAMA_8B, method, longest + 1, Placement(), tier=tier).total > memory
    little = largest_length(LLAMA_8B, method, Placement(), memory, tier=tier, host=2**33)
    assert little == longest if tier == "device" else little < longest


def test_values_at_hand_are_the_widest_layer_s() -> None:
    """As the cache's tiers keep them; where each KV head has a view of its own, all are brought."""
    method = ReAttention(layer_slope=0.5)
    assert method.fetched_keys is not None and method.budget is not None
    assert method.fetched_keys > method.budget
    assert kept_values(method) == (32, method.fetched_keys)
    assert kept_values(ReAttention(per_kv_head=True)) == (32, None)
    assert kept_values(build_method("snapkv"))[0] == 0
    plans = [
        plan_memory(LLAMA_8B, one, 200_000, Placement(), tier="host").cache
        for one in (ReAttention(), method)
    ]
    token = 2 * LLAMA_8B.layers * LLAMA_8B.kv_heads * LLAMA_8B.head_dim
    assert plans[1] - plans[0] == token * (method.fetched_keys - method.budget)


def test_a_million_tokens_of_8b_fit_80_gb_with_the_cache_on_the_host() -> None:
    gpu = Gpu.of("h100-80g")
    device, values, _, host = forecast(LLAMA_8B, ReAttention(), 1 << 20, Placement(), gpu)
    assert [one.fits for one in (device, values, host)] == [False, False, True]
    assert host.plan.host >= 2**37 and host.estimated
    assert device.ttft is None and values.ttft is None and host.ttft is not None
    assert 240 < host.ttft < 400
    assert tiers_of(FullAttention()) == ("device",)
    (full,) = forecast(LLAMA_8B, FullAttention(), 1 << 20, Placement(), gpu)
    assert full.fits is False and full.longest is not None and full.longest > 400_000


def test_the_table_of_several_gpus_is_what_plan_says() -> None:
    """docs/several_gpus.md: longest prompts by model, tier and GPUs that heads are spread over."""
    text = (Path(__file__).parents[2] / "docs" / "several_gpus.md").read_text()
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.count("|") == 12]
    hubs = {model.hub.split("/")[1]: model.hub for model in PAPER_MODELS.values()}
    memory, found = usable(CARDS["h100-80g"].memory), []
    for name, *cells in ([cell.strip() for cell in row] for row in rows[2:]):
        shape, places = read_shape(hubs[name]), []
        for tier in ("device", "values_on_host"):
            for parts in (1, 2, 4, 8):
                if shape.kv_heads % parts:
                    places.append("")
                    continue
                where = Placement(tensor_parallel=parts)
                longest = largest_length(shape, ReAttention(), where, memory, tier=tier)
                places.append(f"{longest / 2**20:.2f}M" if longest else "none")
        kib = 4 * shape.layers * shape.head_dim / 1024
        assert cells == [str(shape.kv_heads), f"{kib:.0f}", *places], name
        found.append(name)
    assert len(found) == 9
    qwen = read_shape("Qwen/Qwen2-1.5B")
    by_layers = [
        largest_length(qwen, ReAttention(), Placement(gpus=n), memory) / 2**20 for n in (4, 8)
    ]
    assert f"holds {by_layers[0]:.1f}M and {by_layers[1]:.1f}M tokens" in " ".join(text.split())


def test_auto_is_planned_between_the_tiers() -> None:
    """A million tokens of the 8B shape on 80 GB: with the keys of as few layers in host memory as
    leave the cache nine tenths of what the weights leave."""
    gpu, tokens, method = Gpu.of("h100-80g"), 1_048_576, build_method("reattention")
    found = {one.tier: one for one in forecast(LLAMA_8B, method, tokens, Placement(), gpu)}
    assert list(found) == ["device", "values_on_host", "auto", "host"]
    auto, host, values = found["auto"], found["host"], found["values_on_host"]
    keys = GIB * 2  # of a layer
    layers, rest = divmod(auto.plan.host - values.plan.host, keys)
    assert (layers, rest) == (7, 0)
    room = 0.9 * (gpu.memory or 0) - 0.9 * auto.plan.weights
    assert auto.plan.cache <= room < auto.plan.cache + keys
    assert auto.plan.cache == values.plan.cache + (2 - layers) * keys
    assert auto.fits and auto.peak and auto.plan.total < auto.peak < (gpu.memory or 0)
    assert auto.tpot and host.tpot and host.tpot / 5 < auto.tpot < host.tpot / 4
    small = replace(gpu, host=100 * GIB)
    tiers = forecast(LLAMA_8B, method, tokens, Placement(), small)
    assert [one.tier for one in tiers if one.fits] == ["auto"]
    for fitting in (400_000, 900_000):  # it is one of the others
        assert "auto" not in [
            one.tier for one in forecast(LLAMA_8B, method, fitting, Placement(), Gpu.of("h200"))
        ]
