"""Every decoder family of the installed transformers: its own logits, or this project's error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from families import FAMILIES, VOCABULARY, tiny_family
from family_table import NOT_BUILT, TABLE, verdict

from reattention_eval import FullAttention, ReAttention, attach
from reattention_eval.errors import ConfigError

# what stands for a kind: family, what it shows
SERVED = [
    "llama",
    "cohere2",  # layers without RoPE, interleaved pairs, windows
    "exaone4",  # layers without RoPE
    "smollm3",  # layers without RoPE
    "olmo3",  # several layer types, a rotary module each
    "gemma3_text",  # two rotary modules
    "phi",  # partial rotary
    "stablelm",  # partial rotary, a module per layer, PyTorch's attention called directly (4.57)
    "persimmon",  # partial rotary, a module per layer
    "nemotron",  # attention modules under other names
    "olmoe",  # PyTorch's attention called directly (4.57)
    "qwen2_moe",  # a module per layer
    "gpt_neox",
]
REFUSED = {
    "doge": "makes a mask of its own",
    "hunyuan_v1_dense": "is not RoPE of its queries and keys alone",
    "deepseek_v3": "multi-head latent attention",
    "gemma2": "soft-capped scores",
    "gemma3": "load its text model alone: transformers.Gemma3ForCausalLM",
    "gpt_oss": "learned attention sinks",
    "llama4_text": "not the usual one",
    "lfm2": "1 of its 2 layers attend",
    "bloom": "no rotary position embedding",
    "mamba": "no rotary position embedding",
    "gptj": "no rotary position embedding",
}
METHODS = [FullAttention(chunk_size=32), ReAttention(4, 100, 8, 2, 9, chunk_size=32)]  # scope 176


def prompt(tokens: int = 160) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, VOCABULARY, (1, tokens), generator=generator)


@pytest.mark.parametrize("family", SERVED)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_served(family, method):
    """The model's own logits, within the scope, of a prompt and of decode steps."""
    model, ids = tiny_family(family), prompt()
    with torch.inference_mode():
        expected = model(input_ids=ids).logits
    near = dict(rtol=0, atol=2e-5 * float(expected.abs().max()))
    with attach(model, method) as session:
        torch.testing.assert_close(session.prefill(ids[:, :157]), expected[:, 156], **near)
        for t in (157, 158, 159):
            logits = session.decode(ids[:, t : t + 1])
        torch.testing.assert_close(logits, expected[:, 159], **near)
    with torch.inference_mode():
        assert torch.equal(model(input_ids=ids).logits, expected)


@pytest.mark.parametrize("family", ["llama", "smollm3", "phi", "gemma3_text", "olmoe"])
def test_served_in_bfloat16(family):
    """As near to the model in float32 as its own bfloat16 forward is."""
    exact, model, ids = tiny_family(family), tiny_family(family, torch.bfloat16), prompt()
    with torch.inference_mode():
        expected = exact(input_ids=ids).logits[:, -1]
        own = model(input_ids=ids).logits[:, -1].float()
    with attach(model, METHODS[1]) as session:
        found = session.prefill(ids).float()
    assert (found - expected).norm() <= 2 * (own - expected).norm()


@pytest.mark.parametrize("family", REFUSED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_refused(family, dtype):
    model = tiny_family(family, dtype)
    forward = [module.__dict__.get("forward") for module in model.modules()]
    with pytest.raises(ConfigError, match=REFUSED[family]):
        attach(model, "full").__enter__()
    assert [module.__dict__.get("forward") for module in model.modules()] == forward


def test_views_of_layers_without_rope():
    """Beyond the scope their keys are attended as they are: views of any length, same weights."""
    model = tiny_family("smollm3").double()
    layer = model.model.layers[3]
    assert not layer.self_attn.use_rope
    with attach(model, ReAttention(4, 24, 8, 2, 3, chunk_size=8)) as session:
        hook = session._hook
        session.prefill(prompt(80))
        query, key = torch.randn(4, 3, 16).double(), torch.randn(2, 40, 16).double()
        same = hook._parts.layers[3].rope.rotate_view(query, key)
        assert torch.equal(same[0], query) and torch.equal(same[1], key)
        assert not torch.equal(hook._parts.layers[0].rope.rotate_view(query, key)[1], key)
        assert session.stats.layer_steps_selected > 0


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family):
    """Right in float32 and bfloat16, or refused in both; whatever else is raised fails here."""
    found = verdict(family)
    if found.kind == "not built":
        assert family in NOT_BUILT, found.text


@pytest.mark.slow
def test_the_table_is_current():
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parents[1] / "family_table.py"), "--check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert TABLE.exists()
