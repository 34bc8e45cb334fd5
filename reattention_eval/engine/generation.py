"""Choosing the next token, and knowing when a row is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reattention_eval.errors import ConfigError


@dataclass(frozen=True)
class StopRule:
    """A row ends with one of `ends`, or when `stop` says so of its new tokens."""

    ends: frozenset[int]
    pad: int
    stop: Callable[[list[int]], bool] | None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        stop_token_ids: Sequence[int],
        stop: Callable[[list[int]], bool] | None,
    ) -> StopRule:
        """With the end tokens of the model's generation settings."""
        config = getattr(model, "generation_config", None)
        eos = getattr(config, "eos_token_id", None)
        own = [eos] if isinstance(eos, int) else list(eos or ())
        pad = getattr(config, "pad_token_id", None)
        if pad is None:
            pad = own[0] if own else 0
        return cls(frozenset((*own, *stop_token_ids)), pad, stop)

    def __call__(self, tokens: list[int]) -> bool:
        return tokens[-1] in self.ends or (self.stop is not None and self.stop(tokens))


class Sampler:
    """Greedy at temperature 0, else seeded sampling."""

    def __init__(self, temperature: float, seed: int) -> None:
        if temperature < 0:
            raise ConfigError(f"temperature must not be negative, found {temperature}.")
        self._temperature = temperature
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, logits: Tensor) -> list[int]:
        """logits [B, vocab] -> one token id per row."""
        if self._temperature == 0:
            return logits.argmax(-1).tolist()
        chances = (logits.float().cpu() / self._temperature).softmax(-1)
        return torch.multinomial(chances, 1, generator=self._generator)[:, 0].tolist()


def fill(rows: list[list[int]], pad: int) -> Tensor:
    """Rows of different length as one int64 [B, longest], padded behind."""
    longest = max(map(len, rows))
    return torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
