"""A long answer behind a prompt: no work and no memory that grows with what was said before."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
import torch
from repeats import repeat_without_gpu
from tiny_models import random_prompt, tiny_model

from reattention_eval import ReAttention, attach
from reattention_eval.attention import room
from reattention_eval.cache import rounded_capacity
from reattention_eval.engine import decode_graph

METHOD = ReAttention(4, 64, 8, 3, 9, chunk_size=64)
PROMPT = 1000


@pytest.fixture
def captured(monkeypatch):
    """The rooms of the decode graphs that were captured."""
    rooms = repeat_without_gpu(monkeypatch)
    monkeypatch.setattr(decode_graph, "LEAST_CAPACITY", 1024)
    return rooms


def decode(session, tokens):
    for token in range(tokens):
        session.decode(torch.tensor([[token % 50]]))


def test_a_reserved_answer_moves_nothing(captured):
    with attach(tiny_model(layers=1), METHOD) as session:
        session.prefill(random_prompt(PROMPT), max_new_tokens=700)
        layer = session._hook.layers[0]
        held, moves = session.stats.cache_bytes, layer.moves
        decode(session, 700)
        session.check_selected()
        assert session.lengths == [PROMPT + 700]
        assert (session.stats.cache_bytes, layer.moves) == (held, moves)
        assert layer.capacity == rounded_capacity(PROMPT + 700)
    assert captured == [1024, layer.capacity]


def test_an_answer_of_unknown_length_seldom_moves(captured, monkeypatch):
    monkeypatch.setattr(room, "GROWTH_TOKENS", 512)
    with attach(tiny_model(layers=1), METHOD) as session:
        session.prefill(random_prompt(PROMPT))
        layer = session._hook.layers[0]
        moves = layer.moves
        decode(session, 900)
        moves = layer.moves - moves
        assert session.lengths == [PROMPT + 900]
        assert session._repeats.graphs == 1  # those of storage that is gone are gone
    assert moves == 2  # 900 tokens in steps of 512 and a little more
    assert captured == [1008, 1024, 1536, 2048]  # where storage or a graph's room ended


def test_prompts_of_nearly_one_length_share_graphs(captured):
    with attach(tiny_model(layers=1), METHOD) as session:
        moves = []
        for tokens in (1501, 1527, 1490, 1519):
            session.prefill(random_prompt(tokens, seed=tokens), max_new_tokens=8)
            decode(session, 8)
            moves.append(session._hook.layers[0].moves)
        assert len(set(moves)) == 1
    assert len(captured) == 1


@pytest.mark.slow
def test_ten_thousand_tokens_leave_nothing_behind(captured):
    """What Python holds is the same after each thousand tokens, and so is the cache."""
    with attach(tiny_model(layers=1), METHOD) as session:
        session.prefill(random_prompt(4000), max_new_tokens=10_000)
        held, sizes = session.stats.cache_bytes, []
        decode(session, 1000)
        tracemalloc.start()
        for _ in range(9):
            decode(session, 1000)
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        session.check_selected()
        assert session.lengths == [14_000]
        assert session.stats.cache_bytes == held
    assert len(captured) == 11  # one a thousand tokens
    assert max(sizes[1:]) - sizes[1] < 64_000  # bytes; a list of 8,000 numbers is more


def test_generate_makes_room_before(captured):
    """Room for all of it is made before, and a rule that may stop it is asked after each token."""
    seen = []
    model = tiny_model(layers=1)
    model.generation_config.eos_token_id = None
    with attach(model, METHOD) as session:
        out = session.generate(
            random_prompt(PROMPT), 300, stop=lambda new: bool(seen.append(len(new)))
        )
    assert out.shape == (1, 300)
    assert seen == list(range(1, 301))
    assert len(captured) <= 2
