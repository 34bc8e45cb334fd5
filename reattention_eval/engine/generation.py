"""Choosing the next tokens, knowing when a row is done, telling a streamer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from reattention_eval.attention.token_ids import finite, non_finite
from reattention_eval.engine.arguments import real_number, token_list, whole_number
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
        if stop is not None and not callable(stop):
            raise ConfigError(
                "stop must be a function of a row's new tokens, True to end it; found "
                f"{type(stop).__name__}. Token ids that end a row go to stop_token_ids."
            )
        config = getattr(model, "generation_config", None)
        eos = getattr(config, "eos_token_id", None)
        own = [eos] if isinstance(eos, int) else list(eos or ())
        pad = getattr(config, "pad_token_id", None)
        if pad is None:
            pad = own[0] if own else 0
        return cls(frozenset((*own, *token_list(stop_token_ids, "stop_token_ids"))), pad, stop)

    def __call__(self, tokens: list[int]) -> bool:
        return tokens[-1] in self.ends or (self.stop is not None and self.stop(list(tokens)))


class Sampler:
    """Greedy at temperature 0, else seeded sampling from what transformers' warpers leave."""

    def __init__(
        self, temperature: float, seed: int, top_p: float | None, top_k: int | None
    ) -> None:
        temperature = real_number(temperature, "temperature")
        if temperature < 0:
            raise ConfigError(f"temperature must not be negative, found {temperature}.")
        self._greedy = temperature == 0
        self._warp: Any = LogitsProcessorList()
        if self._greedy and (top_p is not None or top_k is not None):
            raise ConfigError(
                "top_p and top_k cut what is sampled from, and at temperature 0 nothing is "
                "sampled; give a temperature, as 1.0, or leave them out."
            )
        if not self._greedy:
            self._warp.append(TemperatureLogitsWarper(temperature))
        if top_k is not None:
            self._warp.append(TopKLogitsWarper(whole_number(top_k, "top_k", 1)))
        if top_p is not None:
            if not 0 < real_number(top_p, "top_p") <= 1:
                raise ConfigError(f"top_p must be above 0 and at most 1, found {top_p}.")
            self._warp.append(TopPLogitsWarper(float(top_p)))
        seed = whole_number(seed, "seed", 0)
        if seed >= 1 << 63:
            raise ConfigError(f"seed must be below 2^63, found {seed}.")
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, logits: Tensor) -> list[int]:
        """logits [B, vocab] -> one token id per row; waits for the device once.

        Raises:
            NonFiniteLogitsError: a row's logits are not all numbers.
        """
        tokens, numbers = torch.stack((logits.argmax(-1), finite(logits).long())).tolist()
        if not all(numbers):
            raise non_finite(logits, "that a token is taken from")
        if self._greedy:
            return tokens
        chances = self._warp(None, logits.float().cpu()).softmax(-1)
        return torch.multinomial(chances, 1, generator=self._generator)[:, 0].tolist()


class Stream:
    """A streamer of transformers (`put` and `end`), or nobody."""

    def __init__(self, streamer: Any, prompt: Tensor | None, rows: int, pad: int) -> None:
        """Shows the prompt, [B, T]; an empty one where a sequence is continued.

        Raises:
            ConfigError: no streamer, or one that does not take so many rows.
        """
        self._streamer, self._rows, self._pad = streamer, rows, pad
        if streamer is None:
            return
        if not all(callable(getattr(streamer, name, None)) for name in ("put", "end")):
            raise ConfigError(
                "streamer must have transformers' methods put and end, as TextStreamer(tokenizer); "
                f"found {type(streamer).__name__}."
            )
        shown = torch.empty(rows, 0, dtype=torch.int64) if prompt is None else prompt.cpu()
        try:
            streamer.put(shown)
        except ValueError as error:
            raise ConfigError(f"the streamer refuses a batch of {rows} rows: {error}") from error

    def put(self, rows: list[int], tokens: list[int]) -> None:
        """New tokens of these rows; the others are done."""
        if self._streamer is not None:
            new = torch.full((self._rows,), self._pad)
            new[rows] = torch.tensor(tokens)
            self._streamer.put(new)

    def end(self) -> None:
        if self._streamer is not None:
            self._streamer.end()


def fill(rows: list[list[int]], pad: int) -> Tensor:
    """Rows of different length as one int64 [B, longest], padded behind."""
    longest = max(map(len, rows))
    return torch.tensor([row + [pad] * (longest - len(row)) for row in rows])


def chosen_tokens(
    logits: Tensor,
    step: Callable[[list[int], list[int]], Tensor],
    rule: StopRule,
    pick: Sampler,
    stream: Stream,
    limit: int,
) -> list[list[int]]:
    """New tokens of each row, until `rule` ends it or there are `limit` of them.

    Args:
        logits: [B, vocab] behind what is to be continued.
        step: reads a token of each of the rows named: logits [rows, vocab] behind them. The last
            token of every row is left to be read.
    """
    new: list[list[int]] = [[] for _ in range(len(logits))]
    active = list(range(len(new)))
    while True:
        tokens = pick(logits)
        stream.put(active, tokens)
        for row, token in zip(active, tokens, strict=True):
            new[row].append(token)
        going = [i for i, row in enumerate(active) if not rule(new[row])]
        active = [active[i] for i in going]
        if not active or len(new[active[0]]) == limit:
            return new
        logits = step([tokens[i] for i in going], active)
