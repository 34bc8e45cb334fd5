"""What a method keeps beside a row's keys follows them: appended, taken back, counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from repeats import repeat_without_gpu
from tiny_models import random_prompt, tiny_model

from reattention_eval import attach
from reattention_eval.attention import Selection
from reattention_eval.cache import LayerCache, RowState, rounded_capacity
from reattention_eval.cache.layer import GROWTH_TOKENS
from reattention_eval.methods import Repeats, ViewMethod
from reattention_eval.methods.repeats import ANY_LENGTH

BLOCK = 4


class BlockMaxima(RowState):
    """Per block of 4 keys their largest entries, the last block unfinished."""

    def __init__(self):
        self.maxima = torch.empty(0)
        self.calls = []

    def append(self, keys, start):
        self.calls.append((start, keys.shape[1]))
        first = start // BLOCK
        new = [keys[:, i : i + BLOCK].amax(1) for i in range(first * BLOCK, keys.shape[1], BLOCK)]
        old = self.maxima[:, :first] if first else torch.empty(len(keys), 0, keys.shape[2])
        self.maxima = torch.cat((old.to(keys), torch.stack(new, 1)), 1)

    def rewind(self, length):
        """The block that `length` ends in is known again when keys come."""
        self.maxima = self.maxima[:, : length // BLOCK]

    @property
    def nbytes(self):
        return self.maxima.numel() * self.maxima.element_size()


def expected(keys):
    return torch.stack([keys[:, i : i + BLOCK].amax(1) for i in range(0, keys.shape[1], BLOCK)], 1)


def chunk(tokens, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, tokens, 4, generator=generator) for _ in range(2))


def test_follows_the_cache_through_growth_and_going_back():
    cache = LayerCache()
    cache.reserve(2, 8)
    plain = None
    for seed, tokens in enumerate((7, 6, 1, 9)):  # grows behind the first
        row = cache.append(1, *chunk(tokens, seed))
        if plain is None:
            plain = cache.nbytes
        assert torch.equal(row.state(BlockMaxima).maxima, expected(row.key))
        assert row.state(BlockMaxima) is row.state(BlockMaxima)
    state = row.state(BlockMaxima)
    assert state.calls == [(0, 7), (7, 13), (13, 14), (14, 23)]
    assert plain == 2 * 2 * 2 * 8 * 4 * 4
    assert cache.nbytes == 2 * 2 * 2 * rounded_capacity(13 + GROWTH_TOKENS) * 4 * 4 + state.nbytes
    cache.rewind([0, 10])
    row = cache.append(1, *chunk(3, seed=9))
    assert torch.equal(row.state(BlockMaxima).maxima, expected(row.key))
    assert state.calls[-1] == (10, 13)
    other = cache.append(0, *chunk(5, seed=10))
    assert other.state(BlockMaxima) is not state
    assert torch.equal(other.state(BlockMaxima).maxima, expected(other.key))


def test_a_new_prompt_starts_anew():
    cache = LayerCache()
    cache.reserve(2, 16)
    for row in range(2):
        cache.append(row, *chunk(6, row)).state(BlockMaxima)
    cache.reserve(1, 16)  # other storage: rows are fewer
    assert not cache._states.nbytes
    row = cache.append(0, *chunk(5, 7))
    assert row.state(BlockMaxima).calls == [(0, 5)]
    cache.reserve(1, 12)  # storage that fits is kept
    row = cache.append(0, *chunk(3, 8))
    assert torch.equal(row.state(BlockMaxima).maxima, expected(row.key))


class Length(RowState):
    """Counts keys where the device counts them; a graph may repeat it."""

    def __init__(self):
        self.count = torch.zeros(1, dtype=torch.int64)
        self.repeats = 0

    def append(self, keys, start):
        self.count.fill_(keys.shape[1])

    def append_repeated(self, keys, device_length):
        self.count.copy_(device_length)

    def rewind(self, length):
        self.count.fill_(length)

    def advance(self):
        self.repeats += 1

    nbytes = 8


@dataclass(frozen=True)
class Counting(ViewMethod, Repeats):
    """The last 12 tokens; notes what the state says at every step."""

    name = "counting"
    source = "this test"
    seen: ClassVar[list[int]] = []

    @property
    def budget(self):
        return 12

    def repeats_until(self, length):
        return ANY_LENGTH if self.selects(length) else self.budget

    def fixed_view(self, length):
        return min(length, self.budget)

    def view(self, row, query):
        self.seen.append(int(row.state(Length).count))
        nothing = torch.empty(1, 0, dtype=torch.int32)
        return Selection(nothing, torch.zeros(1, dtype=torch.int32), 0, 12)


def test_in_repeated_steps_the_length_is_the_tokens_there_are(monkeypatch):
    captured = repeat_without_gpu(monkeypatch)
    prompt = random_prompt(40)
    with attach(tiny_model(layers=1), Counting(chunk_size=12)) as session:
        session.prefill(prompt, max_new_tokens=32)
        Counting.seen.clear()
        for token in range(3, 20):
            session.decode(torch.tensor([[token]]))
        assert captured
        assert sorted(set(Counting.seen)) == list(range(41, 58))
        logits = session.decode(torch.tensor([[20]]))
    with attach(tiny_model(layers=1), Counting(chunk_size=12)) as session:
        monkeypatch.setattr(session._repeats, "_able", False)
        session.prefill(prompt)
        for token in range(3, 21):
            want = session.decode(torch.tensor([[token]]))
    torch.testing.assert_close(logits, want, rtol=0, atol=1e-12)


def test_a_state_that_cannot_be_repeated_says_so():
    with pytest.raises(RuntimeError, match="BlockMaxima cannot be brought up to date"):
        BlockMaxima().append_repeated(torch.zeros(1, 2, 3), torch.ones(1, dtype=torch.int32))
