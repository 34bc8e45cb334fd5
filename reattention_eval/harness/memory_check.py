"""Does the longest prompt asked for fit? Answered before a checkpoint is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

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
from reattention_eval.errors import ConfigError, ReAttentionError, SharedGpuError
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
        planned = _planned(model)
    except (ReAttentionError, KeyError):
        return  # loading says what is wrong in its own words
    if planned is None or planned.memory is None:
        return
    where, memory = planned.where, planned.memory
    plan = plan_memory(planned.shape, planned.method, tokens, where, planned.rows, planned.tier)
    needed = plan.taken(where)
    if needed <= memory:
        return
    longest = planned.longest(memory)
    device = "each GPU" if where.on_gpu else "this machine"
    instead = _instead(planned, tokens, memory)
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


def out_of_memory(
    model: Mapping[str, Any], tokens: int, shared: tuple[int, int] | None = None
) -> ConfigError:
    """What to raise where a GPU ran out of memory after all, at `tokens` of prompt and answer.

    shared: bytes of it that this process and others held then (`shared_gpu`).
    """
    sentence, cure = _none_left("GPU", model, tokens), "give more GPUs (REATTENTION_GPUS)"
    again = "start the same command again with fewer processes on the GPU: it tries the prompt anew"
    if shared:
        own, others = (held / GIB for held in shared)
        sentence += (
            f", while this process held {own:.1f} GiB of the GPU and other processes {others:.1f}"
        )
    try:
        planned, room = _planned(model), _of_a_gpu()
    except (ReAttentionError, ValueError):
        planned = None
    if planned is None and shared:
        return SharedGpuError(f"{sentence}; ask for less, or {again}.")
    if planned is None:
        return ConfigError(f"{sentence}; ask for less, or {cure}.")
    longest = planned.longest(room)
    sentence += (
        "; by plan the longest that fits while nothing else is on the GPU is "
        f'{longest:,} tokens with cache="{planned.tier}"'
    )
    if shared and tokens <= longest:
        return SharedGpuError(f"{sentence}; {again}.")
    return ConfigError(f"{sentence}: ask for less, {_instead(planned, tokens, room)}or {cure}.")


def out_of_host_memory(model: Mapping[str, Any], tokens: int, held: int) -> str:
    """The same where the host ran out of memory.

    held: bytes of it that the model and its cache have.
    """
    sentence = _none_left("host", model, tokens)
    cure = "ask for less, or give it more memory"
    try:
        planned, room = _planned(model), main_memory()
        memory = _of_a_gpu() if planned is not None and planned.where.on_gpu else None
    except (ReAttentionError, ValueError):
        planned = None
    if planned is None or planned.memory is None or room is None:
        return f"{sentence}; {cure}."
    room += held
    longest = planned.longest(room) if memory is None else planned.longest(memory, room)
    return (
        f"{sentence}; by plan the longest that fits here is "
        f'{longest:,} tokens with cache="{planned.tier}": {cure}.'
    )


def _none_left(memory: str, model: Mapping[str, Any], tokens: int) -> str:
    return (
        f"{model['abbr']}: no {memory} memory left at a prompt of {tokens:,} tokens with its answer"
    )


def _of_a_gpu() -> int:
    """Bytes of the smallest GPU. Raises ValueError where there is none."""
    return usable(min(total for _, total in accelerator_memory()))


class _Planned(NamedTuple):
    """What an entry of `models` says to plans, and the bytes there are for it on the fullest
    device (None: not known)."""

    shape: ModelShape
    method: Method
    where: Placement
    rows: int
    tier: str
    memory: int | None

    def longest(self, memory: int, host: int | None = None) -> int:
        """Tokens of the longest prompt that fits into so many bytes."""
        about = self.shape, self.method, self.where
        return largest_length(*about, memory, self.rows, self.tier, host)


def _planned(model: Mapping[str, Any]) -> _Planned | None:
    """None where the size of its weights is not known.

    Raises:
        ReAttentionError, KeyError: the entry says something that cannot be.
    """
    shape = _shape(model)
    method = build_method(plain(model.get("method") or {"type": "full"}))
    where, memory = _place(model)
    rows, tier = int(model.get("batch_size") or 1), _tier(model, method, where)
    return None if shape is None else _Planned(shape, method, where, rows, tier, memory)


def _instead(planned: _Planned, tokens: int, memory: int) -> str:
    """The tier of the cache that holds so many tokens, as one of several cures.

    That is "auto", which takes the fastest prompt by prompt, unless several processes share the
    model (`check_cache`).
    """
    shape, method, where, rows, tier, _ = planned
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
