"""Bands whose places and masks are made once for all layers: the answers of bands made anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import longrope, random_prompt, tiny_model

from reattention_eval import attach
from reattention_eval.attention import attend_parts, banded_view
from reattention_eval.attention.rope import ViewRope, rotate_half_split
from reattention_eval.cache import RowCache
from reattention_eval.cache.alike import MOST, Alike
from reattention_eval.methods import InfLLM, LMInfinite, SelfExtend

METHODS = [
    InfLLM(3, 9, 4, representatives=2, top_k=2, chunk_size=5),
    InfLLM(0, 8, 3, representatives=1, top_k=3, chunk_size=8),
    LMInfinite(4, 6, 10, chunk_size=5),
    LMInfinite(2, 6, 6, chunk_size=5),
    SelfExtend(3, 7, chunk_size=5),
]


class Rotary(torch.nn.Module):
    def forward(self, x, position_ids):
        angle = position_ids[..., None] * torch.tensor([1.0, 0.3, 0.05, 0.01]).repeat(2)
        return angle.cos().to(x.dtype), angle.sin().to(x.dtype)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_views_of_one_store_are_those_made_alone(method):
    """Chunks and tokens one behind the other, of lengths that stand apart: masks are held against
    first and stop by `check`, answers to the bit against bands without a mask."""
    rope, store = ViewRope(Rotary(), rotate_half_split), Alike()
    draw = torch.Generator().manual_seed(1)
    key, value, query = (torch.randn(h, 131, 8, generator=draw) for h in (2, 2, 4))
    ends = [*range(5, 101, 5), 101, 102, *range(107, 123, 5), 123, 124, 129, 130, 131]
    shared = 0
    for layer in range(2):
        kept = {}

        def states(factory, kept=kept):
            if factory not in kept:
                kept[factory] = factory()
                kept[factory].reserve(131)
            return kept[factory]

        for start, n in zip([0, *ends], ends, strict=False):
            row = RowCache(key[:, :n], value[:, :n], layer=layer, states=states)
            asked = query[:, start:n]
            if isinstance(method, InfLLM):
                method.read_queries(row, asked)
            if not method.selects(n):
                continue
            in_store = replace(row, alike=store)
            view = method.view(in_store, asked)
            view.check(method.name, row, asked)
            alone = replace(view, bands=tuple(band._replace(mask=None) for band in view.bands))
            found = banded_view.attend_banded(rope, view, in_store, asked, 0.3, 7)
            want = banded_view.attend_banded(rope, alone, row, asked, 0.3, 7)
            assert torch.equal(found, want), n
            shared += sum(band.mask is not None for band in view.bands)
    assert shared > 40


def test_layers_and_chunks_share_their_masks(monkeypatch):
    made = []

    class Counted(attend_parts.BandMask):
        def __init__(self, seen):
            made.append(seen.shape)
            super().__init__(seen)

    monkeypatch.setattr(banded_view, "BandMask", Counted)
    model = tiny_model(layers=4, window=512)
    method = InfLLM(4, 64, 8, representatives=2, top_k=4, chunk_size=32)
    with attach(model, method) as session:
        session.prefill(random_prompt(800), max_new_tokens=5)
        views, before = 4 * 23 * 2, len(made)
        # those of chunks with fewer blocks than are chosen, and one for all the others
        assert before < views / 8
        for token in (3, 4, 5):
            session.decode(torch.tensor([[token]]))
        assert len(made) - before <= 2 * 3


def test_the_oldest_goes_and_modes_are_kept_apart():
    row = RowCache(*(torch.zeros(1, 4, 8) for _ in range(2)))
    assert row.for_all_layers("a", lambda: 1) == 1  # outside a session
    row = replace(row, alike=Alike())
    first = row.for_all_layers("a", object)
    assert row.for_all_layers("a", object) is first
    with torch.inference_mode():
        assert row.for_all_layers("a", object) is not first
    for i in range(MOST - 1):
        row.for_all_layers(i, object)
    assert row.for_all_layers("a", object) is not first


@pytest.mark.parametrize("method", METHODS[::2], ids=str)
def test_what_was_read_before_changes_no_bit(method):
    """Of a RoPE whose tables begin below 0 where a view has more places than the row tokens."""
    model, found = tiny_model(rope_scaling=longrope(60)), []
    for lengths in (range(8, 40), reversed(range(8, 40))):
        with attach(model, method) as session:
            found.append({n: session.prefill(random_prompt(n)) for n in lengths})
    assert [n for n, logits in found[0].items() if not torch.equal(found[1][n], logits)] == []
