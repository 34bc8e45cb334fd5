"""Layers spread over devices by accelerate: the answers of one device."""

from __future__ import annotations

import pytest
import torch
from accelerate import dispatch_model
from tiny_models import random_prompt, tiny_model

from reattention_eval import FullAttention, ReAttention, attach

METHODS = [FullAttention(chunk_size=32), ReAttention(4, 48, 8, 3, 9, chunk_size=32)]
SHAPE = dict(heads=6, kv_heads=2, head_dim=32, layers=4, window=8192, dtype=torch.float32)
ROPES = {
    "default": {},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
}


def spread(model, devices):
    """As device_map does it: every module gets a hook that moves what comes in."""
    first, last = devices
    places = {"model.embed_tokens": first, "model.rotary_emb": first}
    places |= {f"model.layers.{i}": devices[i // 2] for i in range(4)}
    places |= {"model.norm": last, "lm_head": last}
    skip = model._skip_keys_device_placement
    return dispatch_model(model, places, main_device=first, skip_keys=skip, force_hooks=True)


def answers(model, method):
    prompt = random_prompt(200, rows=2)
    mask = torch.ones_like(prompt)
    mask[1, :30] = 0
    with attach(model, method) as session:
        logits = [session.prefill(prompt[:1])]
        for token in (5, 6, 7):
            logits.append(session.decode(torch.tensor([[token]])))
        both = session.generate(prompt, 5, attention_mask=mask)
        places = [layer.device for layer in session._hook.layers]
        return torch.cat(logits).cpu(), both.cpu(), session.stats.mean_view, places


def compare(method, rope, devices, one, rtol):
    want = answers(tiny_model(**SHAPE, **ROPES[rope]).to(one), method)
    found = answers(spread(tiny_model(**SHAPE, **ROPES[rope]), devices), method)
    scale = float(want[0].abs().max())
    torch.testing.assert_close(found[0], want[0], rtol=0, atol=rtol * scale)
    assert torch.equal(found[1], want[1])
    assert found[2] == want[2]
    return found[3]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_hooks_of_accelerate_and_of_the_method_agree(method):
    compare(method, "default", ["cpu", "cpu"], "cpu", 0)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_two_gpus(method, rope):
    places = compare(method, rope, [0, 1], "cuda:0", 1e-4)
    assert [place.index for place in places] == [0, 0, 1, 1]  # a layer's cache on its own GPU
