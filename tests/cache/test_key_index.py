"""The 8-bit index in use: it follows the cache, and the positions stay the same."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from tiny_models import random_prompt, tiny_model

from reattention_eval import ReAttention, attach
from reattention_eval.errors import ConfigError
from reattention_eval.methods import reattention

pytest.importorskip("triton")
SETTINGS = dict(global_size=4, local_size=32, span_size=4, top_k=3, max_spans=4, chunk_size=8)


@pytest.fixture
def indexed(monkeypatch):
    """Serve the index here too, from the first layer on; the sizes it was asked for."""
    sizes = []
    kernels = import_module("reattention_kernels.topk_keys")  # a function has its name too
    served = kernels.topk_keys_indexed

    def count(query, key, index, *rest):
        sizes.append(index.size)
        return served(query, key, index, *rest)

    monkeypatch.setattr(kernels, "indexable", lambda *args: True)
    monkeypatch.setattr(kernels, "topk_keys_indexed", count)
    # the interpreter runs programs one by one: few of them, and few remembered winners
    for name, setting, few in (
        ("int8_index", "SLOTS", ((2**63, 512),)),
        ("int8_warm", "SPLITS", 1),
    ):
        module = import_module(f"reattention_kernels.topk_keys.{name}")
        monkeypatch.setattr(module, setting, few)
    monkeypatch.setattr(reattention, "INT8_KEYS", 40)
    monkeypatch.setattr(reattention, "INT8_LAYER", 1)
    return sizes


def run(candidates):
    model = tiny_model(heads=1, kv_heads=1, head_dim=64, layers=2, dtype=torch.float32)
    with attach(model, ReAttention(**SETTINGS, candidates=candidates)) as session:
        logits = [session.prefill(random_prompt(200, seed=1))]  # storage that grows
        for token in range(3):
            logits.append(session.decode(torch.tensor([[token]])))
        shared = torch.cat((random_prompt(200, seed=1)[:, :120], random_prompt(50, seed=2)), 1)
        logits.append(session.prefill(shared, reuse_prefix=True))
        logits.append(session.prefill(random_prompt(110, seed=3)))
        session.check_selected()
        return torch.cat(logits), session.stats.cache_bytes


def test_same_logits_after_growing_and_going_back(indexed):
    want, plain_bytes = run("16bit")
    assert not indexed
    got, bytes_held = run("int8")
    assert len(indexed) > 12
    assert torch.equal(got, want)
    assert bytes_held > plain_bytes


def test_where_no_gpu_serves_it_the_positions_come_without():
    want, _ = run("16bit")
    got, _ = run("int8")
    assert torch.equal(got, want)


def test_settings_that_change_no_prediction_are_not_among_those_that_do():
    both = [ReAttention(candidates=c).settings() for c in ("16bit", "int8")]
    assert both[0] == both[1]
    assert "top_k" in both[0]


@pytest.mark.parametrize("other", [dict(selection="block_max"), dict(score="qkv_l1")])
def test_what_the_index_cannot_serve_is_refused(other):
    with pytest.raises(ConfigError, match="needs selection"):
        ReAttention(candidates="int8", **other)
