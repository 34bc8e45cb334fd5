"""Does the longest prompt asked for fit? Answered before a checkpoint is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from reattention_eval.cache import AUTO
from reattention_eval.checkpoints.load import pick_dtype
from reattention_eval.checkpoints.quantization import weight_bits
from reattention_eval.efficiency import (
    MemoryPlan,
    ModelShape,
    Placement,
    accelerator_memory,
    largest_length,
    main_memory,
    plan_memory,
    read_shape,
    tiers_of,
    usable,
)
from reattention_eval.efficiency.auto_plan import plan_auto
from reattention_eval.errors import ConfigError, ReAttentionError
from reattention_eval.harness.compose.opencompass_dataset import facts_of
from reattention_eval.harness.fingerprint import plain
from reattention_eval.machine_memory import GIB
from reattention_eval.methods import Method, build_method

VARIABLE = "REATTENTION_MEMORY_CHECK"  # "off" loads and tries all the same


def longest_prompt(model: Mapping[str, Any], datasets: Iterable[Mapping[str, Any]]) -> int | None:
    """Tokens of prompt and answer of the longest prompt whose length the configurations say.

    None where none says it: natural texts are as long as they are.
    """
    known = [tokens for tokens in (_asked(dataset) for dataset in datasets) if tokens]
    limit = model.get("max_seq_len")
    return min(max(known), limit or max(known)) if known else None


def check_memory(model: Mapping[str, Any], datasets: Iterable[Mapping[str, Any]]) -> None:
    """Raise where the longest prompt asked cannot fit beside the weights.

    Args:
        model: an entry of `models`; one that is not planned for passes.
        datasets: what the model is to read.

    Raises:
        ConfigError: it does not fit; the sentence names the largest length that does.
    """
    tokens = longest_prompt(model, datasets)
    if tokens is None or os.environ.get(VARIABLE, "").lower() == "off":
        return
    try:
        shape = _shape(model)
        method = build_method(plain(model.get("method") or {"type": "full"}))
        where, memory = _place(model)
    except (ReAttentionError, KeyError):
        return  # loading says what is wrong in its own words
    if memory is None or shape is None:
        return
    rows = int(model.get("batch_size") or 1)
    tier = _tier(model, method, where)
    plan = plan_memory(shape, method, tokens, where, rows, tier)
    needed = plan.taken(where)
    if needed <= memory:
        return
    longest = largest_length(shape, method, where, memory, rows, tier)
    device = "each GPU" if where.on_gpu else "this machine"
    instead = _instead(shape, method, tokens, where, memory, rows, tier)
    more = "more GPUs (REATTENTION_GPUS)" if where.on_gpu else "it more memory"
    larger = "more or larger GPUs (REATTENTION_GPUS)" if where.on_gpu else "it more memory"
    cure = (
        f"the longest that fits is {longest:,} tokens: ask for less (REATTENTION_ONLY_LENGTHS), "
        f"{instead}or give {more}"
        if longest
        else f"not even the weights fit: give {larger}"
    )
    raise ConfigError(
        f"{model.get('abbr', model['path'])}: a prompt of {tokens:,} tokens needs "
        f"{needed / GIB:.1f} GiB on {device} (weights {plan.weights / GIB:.1f}, cache "
        f"{(needed - plan.weights - plan.workspace) / GIB:.1f}, workspace "
        f"{plan.workspace / GIB:.1f}) and {memory / GIB:.1f} are free; {cure}."
    )


def out_of_memory(model: Mapping[str, Any], tokens: int) -> str:
    """What to say where a GPU ran out of memory after all, at `tokens` of prompt and answer."""
    sentence = (
        f"{model['abbr']}: no GPU memory left at a prompt of {tokens:,} tokens with its answer"
    )
    cure = "ask for less, or give more GPUs (REATTENTION_GPUS)"
    try:
        shape = _shape(model)
        where, _ = _place(model)
        room = usable(min(total for _, total in accelerator_memory()))
    except (ReAttentionError, ValueError):
        shape = None
    if shape is None:
        return f"{sentence}; {cure}."
    method, rows = build_method(plain(model["method"])), int(model.get("batch_size") or 1)
    tier = _tier(model, method, where)
    longest = largest_length(shape, method, where, room, rows, tier)
    instead = _instead(shape, method, tokens, where, room, rows, tier)
    return (
        f"{sentence}; by plan the longest that fits while nothing else is on the GPU is "
        f'{longest:,} tokens with cache="{tier}": ask for less, {instead}or give more GPUs '
        "(REATTENTION_GPUS)."
    )


def out_of_host_memory(model: Mapping[str, Any], tokens: int, held: int) -> str:
    """The same where the host ran out of memory.

    held: bytes of it that the model and its cache have.
    """
    sentence = (
        f"{model['abbr']}: no host memory left at a prompt of {tokens:,} tokens with its answer"
    )
    cure = "ask for less, or give it more memory"
    try:
        shape = _shape(model)
        where, memory = _place(model)
        room = main_memory()
        if where.on_gpu:
            memory = usable(min(total for _, total in accelerator_memory()))
    except (ReAttentionError, ValueError):
        shape = None
    if shape is None or memory is None or room is None:
        return f"{sentence}; {cure}."
    method, rows = build_method(plain(model["method"])), int(model.get("batch_size") or 1)
    tier, room = _tier(model, method, where), room + held
    limits = (memory, rows, tier, room) if where.on_gpu else (room, rows, tier)
    longest = largest_length(shape, method, where, *limits)
    return (
        f"{sentence}; by plan the longest that fits here is "
        f'{longest:,} tokens with cache="{tier}": {cure}.'
    )


def _instead(
    shape: ModelShape, method: Method, tokens: int, where: Placement, memory: int, rows: int,
    tier: str,
) -> str:  # fmt: skip
    """The tier of the cache that holds so many tokens, as one of several cures.

    That is "auto", which takes the fastest prompt by prompt, unless several processes share the
    model (`check_cache`).
    """
    tiers, host = tiers_of(method), main_memory()

    def fits(plan: MemoryPlan) -> bool:
        return plan.total <= memory and (host is None or plan.host <= host)

    slower = tiers[tiers.index(tier) + 1 :] if where.on_gpu else ()
    found = [x for x in slower if fits(plan_memory(shape, method, tokens, where, rows, x))]
    if slower and where.tensor_parallel == 1:
        between = plan_auto(shape, method, tokens, where, memory, rows)
        found = [AUTO] if found or (between and fits(between.plan)) else []
    return f'put cache="{found[0]}" into the model\'s entry, ' if found else ""


def _shape(model: Mapping[str, Any]) -> ModelShape | None:
    """None where its weights are quantised in a way whose size is not known.

    Raises:
        CheckpointError, ConfigError: as `read_shape`.
    """
    shape = read_shape(str(model["path"]))
    if not model.get("quantization"):
        return shape
    bits = weight_bits(plain(model["quantization"]))
    return None if bits is None else replace(shape, weight_bits=bits)


def _tier(model: Mapping[str, Any], method: Method, where: Placement) -> str:
    """Where the cache may lie at last; host memory beside a GPU is checked prompt by prompt."""
    tiers = tiers_of(method)
    wanted = str(model.get("cache") or tiers[0])
    if wanted == AUTO and not where.on_gpu:
        return tiers[0]  # one memory, of which the other tiers take more
    return wanted if wanted in tiers else tiers[-1]


def _asked(dataset: Mapping[str, Any]) -> int:
    facts = facts_of(dataset)
    prompt = facts.get("length") or dataset.get("length") or 0
    cut = facts["max_prompt_tokens"] or prompt
    return (min(prompt, cut) + int(facts["max_out_len"] or 0)) if prompt else 0


def _place(model: Mapping[str, Any]) -> tuple[Placement, int | None]:
    """How the model will lie here, and the bytes there are for it on the fullest device."""
    dtype = str(pick_dtype(model.get("dtype", "auto"))).removeprefix("torch.")
    gpus = accelerator_memory()
    if not gpus:
        return Placement(dtype=dtype, on_gpu=False), main_memory()
    parallel = int(model.get("tensor_parallel") or 1)
    spread = len(gpus) if parallel == 1 and model.get("device_map") else 1
    used = gpus[: max(parallel, spread)]
    return Placement(spread, parallel, dtype), min(free for free, _ in used)
