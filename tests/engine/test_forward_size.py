"""A forward carries many chunks of a prompt, as many as the memory allows: the same answers."""

from __future__ import annotations

import warnings

import pytest
import torch
from products_by_row import products_by_row
from tiny_models import longrope, random_prompt, tiny_model

from reattention_eval import FullAttention, ReAttention, StreamingLLM, attach
from reattention_eval.attention.chunk_groups import chunk_ends, group_chunks
from reattention_eval.engine.forward_size import ForwardSize
from reattention_eval.methods.forward_size import MOST_CHUNKS, MOST_TOKENS, forward_size

METHODS = [
    ReAttention(global_size=2, local_size=12, span_size=4, max_spans=4, top_k=3, chunk_size=6),
    StreamingLLM(sink_size=2, window_size=20, chunk_size=6),
    FullAttention(chunk_size=6),
]
by_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
MODELS = {
    "llama": {},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "window": 32},
    "longrope": {"rope_scaling": longrope(40)},
    "sliding": {
        "family": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 11,
        "max_window_layers": 1,
    },
}


def padded(lengths):
    ids = random_prompt(max(lengths), rows=len(lengths))
    mask = torch.ones_like(ids)
    for row, length in enumerate(lengths):
        mask[row, : ids.shape[1] - length] = 0
    return ids, mask


def conversation(model, method):
    """Everything that reads a prompt: logits, and what was counted."""
    prompt = random_prompt(75)
    with attach(model, method) as session:
        logits = [session.prefill(prompt, max_new_tokens=3)]
        counted = [session.stats]
        logits.append(session.decode(torch.tensor([[5]])))
        logits.append(session.extend(random_prompt(29, seed=3)))
        other = torch.cat((prompt[:, :58], random_prompt(10, seed=4)), 1)
        logits.append(session.prefill(other, reuse_prefix=True))
        counted.append(session.stats)
        reused = session.reused
        logits.append(session.prefill(*padded((61, 7, 61, 33))))
        counted.append(session.stats)
    found = [(s.layer_steps, s.layer_steps_selected, s.mean_view) for s in counted]
    found.append((reused.layer_steps, reused.selected, reused.view_tokens))
    found.append(counted[1].reused_tokens)
    return torch.cat(logits), found, counted[-1].forward_tokens


@pytest.mark.parametrize("chunks", [2, 40])
@pytest.mark.parametrize("model", MODELS)
@by_method
def test_the_same_answers(method, model, chunks, monkeypatch):
    model = products_by_row(tiny_model(**MODELS[model]))
    want, counted, tokens = conversation(model, method)
    assert tokens == 6
    monkeypatch.setattr(ForwardSize, "choose", lambda self, rows: chunks * 6)
    got, again, tokens = conversation(model, method)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    assert again == counted
    assert tokens == min(chunks * 6, 78)


@by_method
def test_a_row_that_ends_stays_in_no_longer_forward(method, monkeypatch):
    monkeypatch.setattr(ForwardSize, "choose", lambda self, rows: 24)
    model, widths = tiny_model(), []
    with attach(model, method) as session:
        model.model.layers[0].register_forward_hook(
            lambda module, args, output: widths.append(tuple(args[0].shape[:2]))
        )
        session.prefill(*padded((61, 7, 33)))
    assert widths == [(3, 12), (2, 24), (1, 24), (1, 1)]


@by_method
def test_too_little_memory_is_a_smaller_forward(method, monkeypatch):
    model = tiny_model()
    want = conversation(model, method)
    monkeypatch.setattr(ForwardSize, "choose", lambda self, rows: 6 if self._shrunk else 30)
    failed = []

    def fail(module, args, kwargs):
        if kwargs["hidden_states"].shape[1] == 30:
            failed.append(1)
            raise torch.OutOfMemoryError("no memory left")

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        handle = model.model.layers[1].self_attn.register_forward_pre_hook(fail, with_kwargs=True)
        got = conversation(model, method)
        handle.remove()
    assert failed == [1]  # not again
    assert sum("chunk by chunk (6 tokens)" in str(w.message) for w in said) == 1
    assert torch.equal(got[0], want[0])
    assert got[1:] == want[1:]


def test_not_even_a_chunk_is_an_error(monkeypatch):
    model = tiny_model()

    def fail(module, args):
        if args[0].shape[1] == 6:
            raise torch.OutOfMemoryError("no memory left")

    with attach(model, METHODS[0]) as session:
        model.model.layers[1].mlp.register_forward_pre_hook(fail)
        with pytest.raises(torch.OutOfMemoryError):
            session.prefill(random_prompt(75))


def test_as_many_tokens_as_the_memory_allows():
    plenty = 10**15
    assert forward_size(512, 1, 100, plenty) == MOST_TOKENS
    assert forward_size(512, 4, 100, plenty) == MOST_TOKENS // 4
    assert forward_size(512, 100, 100, plenty) == 512
    assert forward_size(8, 1, 100, plenty) == 8 * MOST_CHUNKS
    assert forward_size(300, 1, 100, plenty) % 300 == 0
    assert forward_size(MOST_TOKENS + 1, 1, 100, plenty) == MOST_TOKENS + 1
    sizes = [forward_size(512, 1, 200_000, free) for free in range(0, 8 * 10**9, 10**8)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 512
    assert sizes[-1] > 512
    assert all(size == 512 or size * 200_000 <= i * 10**8 / 2 for i, size in enumerate(sizes))


def test_chunks_are_grouped_by_how_they_are_answered():
    found = group_chunks(10, chunk_ends(25, 4), lambda n: n > 20, lambda n: n > 14)
    assert [(g.place, g.begin, g.end, g.ends, g.selects) for g in found] == [
        (0, 0, 4, (14,), False),
        (1, 4, 8, (18,), False),
        (2, 8, 24, (22, 26, 30, 34), True),
        (6, 24, 25, (35,), True),
    ]
    assert found[2].chunks() == [(i + 2, slice(4 * i, 4 * i + 4), 22 + 4 * i) for i in range(4)]
