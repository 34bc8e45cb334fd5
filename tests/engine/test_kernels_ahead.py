"""Kernels are compiled from the moment that a model's shape and the method are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import random_prompt, tiny_model

from reattention_eval import FullAttention, ReAttention, attach
from reattention_eval.cache import HostTier
from reattention_eval.cache.host_memory import HostBlocks
from reattention_eval.engine import kernels_ahead
from reattention_eval.engine.kernels_ahead import compile_kernels, compiling
from reattention_eval.errors import ConfigError
from reattention_kernels.warmup import CompilingAhead

METHOD = ReAttention(4, 32, 8, 3, 9, chunk_size=16, selection="block_max")


@pytest.fixture
def started(monkeypatch):
    """What was to be compiled, on a machine that has a GPU by its own account."""
    shapes = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(kernels_ahead, "_STARTED", {})
    monkeypatch.setattr(
        kernels_ahead, "compile_ahead", lambda shape: shapes.append(shape) or CompilingAhead()
    )
    return shapes


def test_the_shape_is_of_the_model_and_the_method(started):
    config = tiny_model(heads=6, kv_heads=2, head_dim=16).config
    work = compile_kernels(config, METHOD, torch.bfloat16, parts=2)
    (shape,) = started
    assert (shape.heads, shape.kv_heads, shape.head_dim) == (3, 1, 16)
    assert shape.dtype is torch.bfloat16
    assert (shape.top_k, shape.max_spans, shape.span_size) == (3, 9, 8)
    assert (shape.global_size, shape.local_size, shape.chunk_sizes) == (4, 32, (16,))
    assert shape.mode == "block_max"
    assert shape.norm_dims == (96,)
    assert compile_kernels(config, METHOD, torch.bfloat16, parts=2) is work
    assert len(started) == 1
    assert compile_kernels(config, FullAttention(), torch.bfloat16) is None


def test_tiers_sizes_and_memories_are_the_methods(started):
    config = tiny_model(layers=3, heads=6, kv_heads=2, head_dim=16).config
    method = replace(METHOD, layer_slope=0.5, vote_memory=2)
    compile_kernels(config, method, torch.bfloat16, cache="values_on_host")
    (shape,) = started
    assert shape.layer_spans == tuple(sorted({method.spans_of(i, 3) for i in range(3)}))
    assert len(shape.layer_spans) == 3
    assert (shape.vote_memory, shape.weighted) == (2, False)
    memory = HostTier(method.first_tokens, method.fetched_keys)
    blocks = HostBlocks(memory.memory, torch.empty(0, 2, 0, 16, dtype=torch.bfloat16))
    assert shape.host_values == (memory.window, blocks.size)
    compile_kernels(config, replace(METHOD, per_kv_head=True), torch.bfloat16, cache="host")
    compile_kernels(config, METHOD, torch.bfloat16)
    assert [shape.host_values for shape in started[-2:]] == [None, None]


@pytest.mark.parametrize(
    ("last", "sizes"),
    [
        (dict(last_tokens=5), (16, 5)),
        (dict(last_tokens=37), (16, 5)),
        (dict(last_tokens=32), (16,)),
        (dict(last_tokens=5, last_alone=True), (16,)),
        (dict(last_tokens="document", chunk_size=32), (32, 16)),
    ],
    ids=str,
)
def test_last_tokens_are_chunks_of_their_own_size(last, sizes):
    assert replace(METHOD, **last).kernel_settings()["chunk_sizes"] == sizes


def test_loading_starts_it_before_the_weights(started):
    config = tiny_model().config
    assert compiling(None, METHOD, torch.float16)(config) is config
    other = tiny_model().config
    assert compiling(lambda given: other, METHOD, torch.float16)(config) is other

    def refusing(given):
        raise ConfigError("no")

    with pytest.raises(ConfigError):
        compiling(refusing, METHOD, torch.bfloat16)(config)
    assert len(started) == 1


def test_the_first_prompt_that_selects_waits(monkeypatch):
    waited = []

    class Work:
        def wait(self):
            waited.append(1)

    with attach(tiny_model(), METHOD) as session:
        session._kernels = Work()
        session.prefill(random_prompt(60))
        assert not waited
        session.prefill(random_prompt(200))
        assert waited == [1]
