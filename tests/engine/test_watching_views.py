"""What a prompt's last chunk attended to, against the loops and by hand."""

from __future__ import annotations

import pytest
import torch
from naive_reattention import Naive
from tiny_models import random_prompt, tiny_model

from reattention_eval import FullAttention, ReAttention, StreamingLLM, attach

SETTINGS = {
    "global_size": 2, "local_size": 12, "span_size": 4, "top_k": 3, "max_spans": 4, "chunk_size": 6,
}  # fmt: skip


def positions(spans: list[int]) -> list[int]:
    return [
        p for start, end in zip(spans[::2], spans[1::2], strict=True) for p in range(start, end)
    ]


@pytest.mark.parametrize("length", [61, 66])
def test_the_positions_are_those_of_the_loops(length: int) -> None:
    model = tiny_model()
    ids = random_prompt(length)
    naive = Naive(model, **SETTINGS)
    naive.prefill(ids[0].tolist())
    with attach(model, ReAttention(**SETTINGS)) as session:
        with session.watching_views() as spans:
            session.prefill(ids)
        session.decode(random_prompt(1, seed=5))  # not watched, and not in it
        found = spans()
    assert len(found) == model.config.num_hidden_layers
    assert [positions(layer) for layer in found] == [
        naive.views[layer, length] for layer in range(len(found))
    ]


def test_a_window_by_hand_and_after_a_reused_prefix() -> None:
    model = tiny_model()
    with attach(model, StreamingLLM(sink_size=2, window_size=20, chunk_size=6)) as session:
        ids = random_prompt(40)
        session.prefill(ids)
        with session.watching_views() as spans:
            session.prefill(torch.cat([ids, random_prompt(11, seed=3)], 1), reuse_prefix=True)
        assert spans() == [[0, 2, 31, 51]] * model.config.num_hidden_layers
        with session.watching_views() as short:
            session.prefill(ids[:, :22])
        assert short() == [[]] * model.config.num_hidden_layers  # all there was
        assert spans()[0] == [0, 2, 31, 51]  # as it was told then


def test_methods_without_views_have_none() -> None:
    with attach(tiny_model(), FullAttention(chunk_size=6)) as session:
        with session.watching_views() as spans:
            session.prefill(random_prompt(30))
        assert not any(spans())
