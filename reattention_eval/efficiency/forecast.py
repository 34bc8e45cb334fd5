"""What a prompt will take on a card, tier by tier: bytes, seconds, and the longest that fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from reattention_eval.cache.tiers import AUTO, DEVICE, HOST
from reattention_eval.efficiency.auto_plan import AutoPlan, plan_auto
from reattention_eval.efficiency.cards import AUTO as THIS_MACHINE
from reattention_eval.efficiency.cards import Card, card_by_key, card_by_name
from reattention_eval.efficiency.plan import (
    MemoryPlan,
    Placement,
    largest_length,
    peak_memory,
    plan_memory,
    prompt_forward,
    tiers_of,
)
from reattention_eval.efficiency.rates import Rates, rates_of
from reattention_eval.efficiency.shape import ModelShape
from reattention_eval.efficiency.work import (
    can_be_timed,
    counted_as,
    prompt_transfers,
    prompt_work,
    step_transfers,
    step_work,
)
from reattention_eval.machine_memory import accelerator_memory, main_memory, usable
from reattention_eval.methods import Method, ReAttention, method_settings

_TIMED_DTYPES = ("bfloat16", "float16")  # the same units compute in both


@dataclass(frozen=True)
class Gpu:
    """A card to plan for.

    Attributes:
        name: as PyTorch says it; None where only its memory is known, or nothing.
        memory: bytes that tensors can take of it; None where that is not known.
        host: bytes of main memory that are left; None where the card is another machine's.
        rates: how fast it is; None where nothing tells.
        card: its data sheet.
    """

    name: str | None = None
    memory: int | None = None
    host: int | None = None
    rates: Rates | None = None
    card: Card | None = None

    @classmethod
    def of(cls, key: str = THIS_MACHINE, memory: int | None = None) -> Gpu:
        """The card that `--gpu` names. memory: of one GPU, in place of the card's own.

        Raises:
            ConfigError: no such card.
        """
        if key != THIS_MACHINE:
            card = card_by_key(key)
            return cls(card.name, usable(memory or card.memory), None, rates_of(card.name), card)
        gpus = accelerator_memory()
        if not gpus or memory is not None:  # a GPU of so many bytes is not this machine's
            return cls(memory=None if memory is None else usable(memory))
        import torch

        name, total = torch.cuda.get_device_name(0), min(total for _, total in gpus)
        return cls(name, usable(total), main_memory(), rates_of(name), card_by_name(name))


@dataclass(frozen=True)
class Forecast:
    """A method in a tier.

    Attributes:
        fits: None where the card's memory is not known, as the three behind it.
        longest: tokens of the longest prompt with its answer; None for "auto", which holds what
            "host" does.
        forward: tokens that a forward carries.
        peak: bytes expected at most on the fullest GPU.
        ttft, tpot: seconds; None where no rates say, or it does not fit.
        estimated: they rest on a data sheet, for the card or its link to host memory.
    """

    method: Method
    tier: str
    plan: MemoryPlan
    fits: bool | None = None
    longest: int | None = None
    forward: int | None = None
    peak: int | None = None
    ttft: float | None = None
    tpot: float | None = None
    estimated: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For JSON: bytes, tokens and seconds."""
        return {
            "method": method_settings(self.method),
            "tier": self.tier,
            "weight_bytes": self.plan.weights,
            "cache_bytes": self.plan.cache,
            "workspace_bytes": self.plan.workspace,
            "gpu_bytes": self.plan.total,
            "host_bytes": self.plan.host,
            "fits": self.fits,
            "longest_tokens": self.longest,
            "forward_tokens": self.forward,
            "peak_bytes": self.peak,
            "ttft_seconds": self.ttft,
            "tpot_seconds": self.tpot,
            "tokens_per_second": 1 / self.tpot if self.tpot else None,
            "estimated": self.estimated,
        }


def forecast(
    shape: ModelShape, method: Method, tokens: int, placement: Placement, gpu: Gpu, rows: int = 1
) -> list[Forecast]:
    """Of `rows` prompts of `tokens` tokens with their answers, in each tier the method can have;
    "auto" among them where it is none of the others (`plan_auto`).

    Raises:
        ConfigError: as `plan_memory`.
    """
    asked = _Asked(shape, method, tokens, placement, gpu, rows)
    found = [_in(tier, asked) for tier in tiers_of(method)]
    if gpu.memory is not None:
        auto = plan_auto(shape, method, tokens, placement, gpu.memory, rows)
        if auto is not None:
            found.insert(-1, _auto(auto, found[-1], asked))
    return found


class _Asked(NamedTuple):
    shape: ModelShape
    method: Method
    tokens: int
    placement: Placement
    gpu: Gpu
    rows: int


def _in(tier: str, asked: _Asked) -> Forecast:
    shape, method, tokens, placement, gpu, rows = asked
    plan = plan_memory(shape, method, tokens, placement, rows, tier)
    if gpu.memory is None:
        return Forecast(method, tier, plan)
    fits = _fits(plan, gpu)
    longest = largest_length(shape, method, placement, gpu.memory, rows, tier, gpu.host)
    if not fits:
        return Forecast(method, tier, plan, fits, longest)
    sizes = shape, method, tokens, placement, gpu.memory, rows, tier
    forward, peak = prompt_forward(*sizes), peak_memory(*sizes)
    ttft, tpot = _seconds(asked, tier, forward)
    scaled = gpu.rates is not None and gpu.rates.scaled_from is not None
    estimated = ttft is not None and (scaled or tier != DEVICE or not can_be_timed(method))
    return Forecast(method, tier, plan, fits, longest, forward, peak, ttft, tpot, estimated)


def _auto(auto: AutoPlan, host: Forecast, asked: _Asked) -> Forecast:
    """As `host`, with some of the keys on the GPU. Its longest is not asked for: the longer a
    prompt, the more of them are in host memory."""
    plan = auto.plan
    if not _fits(plan, asked.gpu):
        return Forecast(asked.method, AUTO, plan, False)
    sizes = *asked[:4], asked.gpu.memory or 0, asked.rows, HOST
    forward, peak = prompt_forward(*sizes), peak_memory(*sizes) + plan.cache - host.plan.cache
    ttft, tpot = _seconds(asked, HOST, forward, auto.share)
    estimated = ttft is not None
    return Forecast(asked.method, AUTO, plan, True, None, forward, peak, ttft, tpot, estimated)


def _fits(plan: MemoryPlan, gpu: Gpu) -> bool:
    return plan.total <= (gpu.memory or 0) and (gpu.host is None or plan.host <= gpu.host)


def _seconds(
    asked: _Asked, tier: str, forward: int, share: float = 1.0
) -> tuple[float | None, float | None]:
    """To the first token, and for one more; None where nothing tells."""
    shape, method, tokens, placement, gpu, rows = asked
    alone = rows == placement.gpus == placement.tensor_parallel == 1 and shape.weight_bits is None
    if not alone or placement.dtype not in _TIMED_DTYPES:
        return None, None
    counted = counted_as(method)
    # beside the cache on the GPU another rule's views were not measured
    if gpu.rates is None or counted is None or (tier != DEVICE and counted != method):
        return None, None
    size = placement.itemsize
    moved = None
    if tier != DEVICE:
        if gpu.card is None:
            return None, None
        assert isinstance(counted, ReAttention)
        moved = (
            prompt_transfers(shape, counted, tokens, size, tier, forward, share),
            step_transfers(shape, counted, tokens, size, tier, share),
        )
    of_prompt = prompt_work(shape, counted, tokens, forward)
    return gpu.rates.seconds(of_prompt, step_work(shape, counted, tokens, size), moved, gpu.card)
