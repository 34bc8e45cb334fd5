"""On a GPU: what the CPU computes, selected in kernels and without waiting for the host."""

from __future__ import annotations

import gc
import warnings
from dataclasses import replace

import pytest
import torch
from tiny_models import random_prompt, tiny_model

import reattention_kernels
from reattention_eval import FullAttention, ReAttention, StreamingLLM, attach
from reattention_eval.attention import RowStep
from reattention_eval.attention.token_ids import on_host
from reattention_eval.errors import ConfigError

pytestmark = pytest.mark.gpu

METHODS = [
    FullAttention(chunk_size=64),
    StreamingLLM(sink_size=4, window_size=200, chunk_size=64),
    ReAttention(4, 128, 8, 3, 9, chunk_size=64),
    ReAttention(4, 128, 8, 3, 9, chunk_size=64, per_kv_head=True, votes="rank", span_grid=True),
]
SHAPE = dict(heads=6, kv_heads=2, head_dim=64, layers=3, window=8192)
# in bf16 a peaky random model is chaotic: one span more or less changes every logit
SMOOTH = {**SHAPE, "initializer_range": 0.03}


def by_method(methods):
    return pytest.mark.parametrize("method", methods, ids=lambda method: method.name)


def run(model, method, prompt, device):
    """Logits of a prefill and four decode steps, and the views of every layer-step."""
    model = model.to(device)
    with attach(model, method) as session:
        logits = [session.prefill(prompt.to(device))]
        for token in (5, 6, 7, 8):
            logits.append(session.decode(torch.tensor([[token]], device=device)))
        return torch.cat(logits).float().cpu(), session.stats


@by_method(METHODS)
def test_float32_equals_the_cpu(method):
    prompt = random_prompt(700)
    want, cpu = run(tiny_model(dtype=torch.float32, **SHAPE), method, prompt, "cpu")
    got, cuda = run(tiny_model(dtype=torch.float32, **SHAPE), method, prompt, "cuda")
    torch.testing.assert_close(got, want, rtol=0, atol=1e-3 * float(want.abs().max()))
    assert (got.argmax(-1) == want.argmax(-1)).all()
    assert cuda.layer_steps_selected == cpu.layer_steps_selected
    assert cuda.mean_view == cpu.mean_view  # the same positions, to the last span


@by_method(METHODS)
def test_bf16_follows_the_cpu(method):
    prompt = random_prompt(700)
    want, cpu = run(tiny_model(dtype=torch.bfloat16, **SMOOTH), method, prompt, "cpu")
    got, cuda = run(tiny_model(dtype=torch.bfloat16, **SMOOTH), method, prompt, "cuda")
    assert (got - want).norm() / want.norm() < 0.2
    assert cuda.layer_steps_selected == cpu.layer_steps_selected


@pytest.mark.parametrize("tokens", [700, 150], ids=["beyond", "within"])
@pytest.mark.parametrize("head_dim", [64, 80, 128])
def test_kernels_equal_the_positions_path(head_dim, tokens, monkeypatch):
    """The fused view against gather + RoPE + attention in PyTorch, on the same bf16 model."""
    from reattention_eval.attention.fused_view_attention import FusedViewAttention

    def winners(query, key, k, mode, device_length=None, less=0):
        """Whatever the query: rounded in another order it would choose other spans."""
        c, h, t, _ = query.shape
        ends = torch.full((c,), key.shape[2], device=query.device)
        if device_length is not None:
            ends = device_length.expand(c) - less
        place = sum(
            torch.arange(n, device=query.device).view([-1 if i == j else 1 for j in range(3)])
            * step
            for i, (n, step) in enumerate(zip((h, t, k), (13, 7, 29), strict=True))
        )
        return (place[None] % ends[:, None, None, None]).int()

    monkeypatch.setattr(reattention_kernels, "topk_keys", winners)
    shape = {**SMOOTH, "head_dim": head_dim}
    prompt = random_prompt(tokens)
    fused, fast = run(tiny_model(dtype=torch.bfloat16, **shape), METHODS[2], prompt, "cuda")
    monkeypatch.setattr(FusedViewAttention, "tables", lambda *args: None)
    monkeypatch.setattr(FusedViewAttention, "attend_all", lambda *args: None)
    plain, slow = run(tiny_model(dtype=torch.bfloat16, **shape), METHODS[2], prompt, "cuda")
    assert (fused - plain).norm() / plain.norm() < 0.1
    assert fast.mean_view == slow.mean_view


def test_transformers_generate_inside_the_block():
    model = tiny_model(dtype=torch.bfloat16, **SHAPE).cuda()
    prompt = random_prompt(400).cuda()
    with attach(model, METHODS[2]) as session:
        mine = session.generate(prompt, 8)
        theirs = model.generate(prompt, max_new_tokens=8, do_sample=False)[:, 400:]
        assert mine[0, 0] == theirs[0, 0]
        session.check_selected()


@pytest.mark.parametrize("tokens", [700, 170], ids=["beyond", "across"])  # a scope of 204
@by_method(METHODS)
def test_captured_steps_equal_launched_ones(method, tokens, monkeypatch):
    from reattention_eval.engine import decode_graph

    monkeypatch.setattr(decode_graph, "LEAST_CAPACITY", 16)
    model = tiny_model(dtype=torch.bfloat16, **SHAPE).cuda()

    def run_steps():
        with attach(model, method) as session:
            logits = [session.prefill(random_prompt(tokens).cuda(), max_new_tokens=90)]
            for token in range(60):
                logits.append(session.decode(torch.tensor([[token]])))
            graphs = session._repeats.graphs
            return torch.cat(logits), session.stats.mean_view, session.stats.layer_steps, graphs

    captured = run_steps()
    assert captured[3] > 1
    monkeypatch.setattr(type(method), "repeats_until", lambda self, length: 0)
    launched = run_steps()
    assert launched[3] == 0
    assert torch.equal(captured[0], launched[0])
    assert captured[1:3] == launched[1:3]


def test_sessions_leave_no_memory_behind():
    model = tiny_model(dtype=torch.bfloat16, **SMOOTH).to("cuda")
    held = []
    for _ in range(4):
        with attach(model, METHODS[2]) as session:
            session.prefill(random_prompt(700).to("cuda"))
            for _ in range(8):
                session.decode(torch.tensor([[5]], device="cuda"))
            assert session._repeats.graphs
        del session
        gc.collect()
        held.append(torch.cuda.memory_allocated())
    assert held[1] == held[-1]  # of cuBLAS's workspaces, kept for each stream, too


def test_same_bits_twice():
    model = tiny_model(dtype=torch.bfloat16, **SHAPE)
    first, _ = run(model, METHODS[2], random_prompt(700), "cuda")
    second, _ = run(model, METHODS[2], random_prompt(700), "cuda")
    assert torch.equal(first, second)


@by_method([*METHODS[2:], replace(METHODS[2], votes="mass"), replace(METHODS[2], votes="margin")])
def test_a_layer_never_waits_for_the_host(method):
    model = tiny_model(dtype=torch.bfloat16, **SHAPE).cuda()
    hidden = torch.randn(1, 64, 6 * 64, device="cuda", dtype=torch.bfloat16)
    with attach(model, method) as session:
        session.prefill(random_prompt(700).cuda(), max_new_tokens=256)  # kernels are compiled
        session.decode(torch.tensor([[5]], device="cuda"))
        hook, attention = session._hook, model.model.layers[0].self_attn
        layer = attention.layer_idx
        for tokens in (64, 1):
            q = attention.q_proj(hidden[:, :tokens]).unflatten(-1, (6, 64)).transpose(1, 2)
            k = attention.k_proj(hidden[:, :tokens]).unflatten(-1, (2, 64)).transpose(1, 2)
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
            try:
                with hook.drive([RowStep(0, 0, tokens)]):
                    hook.answers(layer, q, k, k, 0.125)
            finally:
                torch.cuda.set_sync_debug_mode("default")


def test_a_head_dim_no_kernel_takes_says_so_once():
    model = tiny_model(dtype=torch.bfloat16, **{**SHAPE, "head_dim": 8})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        _, stats = run(model, METHODS[2], random_prompt(400), "cuda")
    assert stats.layer_steps_selected > 0
    assert sum("head_dim 16 to 256, found 8" in str(w.message) for w in said) == 1


def test_token_ids_come_over_together():
    """What is asked of a user's ids, mask and places is asked on the host, after one transfer."""
    ids, mask = torch.tensor([[3, 4], [5, 6]]).cuda(), torch.tensor([[False, True]] * 2).cuda()
    halves = mask.half()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            found = on_host(ids, mask, None, ids.int()[0], halves)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert len(waits) == 1
    assert found[0].tolist() == ids.tolist() and found[1].bool().tolist() == mask.tolist()
    assert found[2] is None and found[3].tolist() == [3, 4] and found[4] is halves


@by_method(METHODS)
def test_forwards_of_the_users_own(method):
    """As near to the session's logits as bf16 is, with mask and places on the GPU."""
    model, prompt = tiny_model(dtype=torch.bfloat16, **SMOOTH).cuda(), random_prompt(300).cuda()
    with attach(model, method) as session:
        expected = [session.prefill(prompt), session.decode(prompt[:, :1])]
        cache = None
        for ids, want in zip((prompt, prompt[:, :1]), expected, strict=True):
            held = 0 if cache is None else cache.get_seq_length()
            places = torch.arange(held, held + ids.shape[1], device="cuda")[None]
            mask = torch.ones(1, held + ids.shape[1], dtype=torch.long, device="cuda")
            made = model(ids, mask, places, cache)
            cache = made.past_key_values
            assert (made.logits[:, -1] - want).norm() / want.norm() < 0.2
        with pytest.raises(ConfigError, match="position_ids of row 0"):
            model(ids, torch.ones(1, 302, device="cuda"), places, cache)
