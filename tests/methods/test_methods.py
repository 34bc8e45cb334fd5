"""What methods say of themselves, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from reattention_eval.cache import RowCache
from reattention_eval.errors import ConfigError
from reattention_eval.methods import (
    FullAttention,
    ReAttention,
    StreamingLLM,
    build_method,
    list_methods,
    method_class,
)


def row(length, heads=2, d=8):
    generator = torch.Generator().manual_seed(length)
    return RowCache(*(torch.randn(heads, length, d, generator=generator) for _ in range(2)))


def positions(method, cache, query):
    return method.view(cache, query).positions(cache.length).tolist()


@pytest.mark.parametrize("name", list_methods())
def test_every_method_by_name(name):
    method = build_method(dict(type=name))
    assert type(method) is method_class(name)
    assert method.name == name
    assert method.source
    assert build_method(name) == method
    assert build_method(dict(type=name, **method.settings())) == method
    assert method.budget in (None, 8192)


def test_papers_defaults_fill_the_window_of_llama3():
    assert ReAttention().budget == 32 + 4096 + 127 * 32 == 8192


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            dict(type="reatention"),
            "there are: reattention, reattention_plus, full",
        ),
        (dict(type="reattention:local_size=2048"), "a method.s name has no settings in it"),
        (dict(local_size=3), "needs a type"),
        (dict(type="full", spans=3), "full has no setting spans; there are: chunk_size"),
        (dict(type="reattention", chunk_size=4097), "4097 must fit into local_size 4096.*lower"),
        (dict(type="reattention", chunk_size=0), "chunk_size must be >= 1, found 0"),
        (dict(type="reattention", top_k=0), "top_k must be at least 1, found 0"),
        (dict(type="reattention", span_size=0), "span_size must be at least 1"),
        (dict(type="reattention", global_size=-1), "global_size must be at least 0"),
        (dict(type="reattention", score="kq"), "unknown score 'kq'; there are: qk, qkv_l1, qkv_l2"),
        (dict(type="reattention", selection="fast"), "unknown selection 'fast'"),
        (dict(type="streaming_llm", window_size=100), "512 must fit into window_size 100"),
        (dict(type="streaming_llm", sink_size=-1), "must not be negative"),
    ],
    ids=str,
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        build_method(settings)


def test_scope_beyond_a_window_names_the_cure():
    with pytest.raises(ConfigError, match=r"32 \+ 4096 \+ 127 x 32 <= 4096"):
        ReAttention().check(4096)
    with pytest.raises(ConfigError, match="at most 4064"):
        StreamingLLM().check(4096)
    ReAttention(allow_beyond_window=True).check(4096)
    FullAttention().check(1)


def test_streaming_llm_view():
    method = StreamingLLM(sink_size=2, window_size=5, chunk_size=3)
    query = torch.randn(4, 3, 8)
    assert [method.selects(n) for n in (7, 8)] == [False, True]
    assert positions(method, row(11), query) == [0, 1, 6, 7, 8, 9, 10]
    no_sink = StreamingLLM(sink_size=0, window_size=5, chunk_size=3)
    assert positions(no_sink, row(11), query) == [6, 7, 8, 9, 10]


@pytest.mark.parametrize(("score", "norm"), [("qkv_l1", 1), ("qkv_l2", 2)])
def test_keys_scaled_by_their_values(score, norm):
    settings = dict(global_size=2, local_size=4, span_size=1, top_k=1, max_spans=3, chunk_size=1)
    cache = row(40)
    query = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0))
    scaled = RowCache(cache.key * cache.value.norm(p=norm, dim=-1, keepdim=True), cache.value)
    got = positions(ReAttention(**settings, score=score), cache, query)
    assert got == positions(ReAttention(**settings), scaled, query)
    assert got != positions(ReAttention(**settings), cache, query)


def test_selection_starts_where_it_should():
    settings = dict(global_size=2, local_size=6, span_size=2, max_spans=3, chunk_size=2)
    scope, local = ReAttention(**settings), ReAttention(**settings, select_from="local")
    assert [scope.selects(n) for n in (13, 14, 15)] == [False, False, True]
    assert [local.selects(n) for n in (8, 9)] == [False, True]
    query = torch.randn(2, 2, 8)
    assert positions(local, row(9), query) == list(range(9))  # the middle is one position
