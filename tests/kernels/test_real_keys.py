"""What scripts/gpu_real_keys.py records, against keys and queries computed from hidden states."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import random_prompt, tiny_model

from reattention_eval import FullAttention, ReAttention, attach
from reattention_kernels.bench.bars import real_measure
from reattention_kernels.bench.data import load_real_keys

sys.path.append(str(Path(__file__).parents[2] / "scripts"))
import gpu_real_keys


def projected(model: Any, states: torch.Tensor, number: int, name: str) -> torch.Tensor:
    """[heads, T, 16], from the hidden states [1, T, hidden] before a layer."""
    layer = model.model.layers[number]
    with torch.inference_mode():
        out = getattr(layer.self_attn, f"{name}_proj")(layer.input_layernorm(states))
        out = out.view(states.shape[1], -1, 16)
        norm = getattr(layer.self_attn, f"{name}_norm", None)
        return (norm(out) if norm else out).transpose(0, 1)


# transformers takes norms and softmax in float32
@pytest.mark.parametrize(("family", "chunk"), [("qwen2", 97), ("qwen3", 700)])
def test_keys_and_queries_are_the_models(family: str, chunk: int) -> None:
    model = tiny_model(family, heads=6, kv_heads=2, layers=3, window=2048)
    ids = random_prompt(1200)
    lengths = [1030, 1200]
    method = FullAttention(chunk_size=chunk)
    found = gpu_real_keys.dump(model, ids[0].tolist(), method, lengths, [0, 2])
    with torch.inference_mode():
        states = model(ids, output_hidden_states=True).hidden_states
    for number in (0, 2):
        key, query = (projected(model, states[number], number, name) for name in "kq")
        for length in lengths:
            held = found[length][number]
            assert held["key"].shape == (2, length, 16)
            for got, want in (
                (held["key"], key[:, :length]),
                (held["query"], query[:, length - 512 : length]),
            ):
                torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


def test_under_reattention_they_are_the_caches() -> None:
    model = tiny_model("qwen2", heads=6, kv_heads=2, layers=3)
    ids = random_prompt(1100)
    method = ReAttention(4, 64, 4, 2, 8, chunk_size=32)
    found = gpu_real_keys.dump(model, ids[0].tolist(), method, [1100], [1])
    with attach(model, method) as session:
        session.prefill(ids)
        assert session.stats.layer_steps_selected
        held = session._hook.layers[1].row(0).key
    torch.testing.assert_close(found[1100][1]["key"], held[:, :1100], rtol=0, atol=0)


def test_the_bench_takes_the_files(tmp_path: Path) -> None:
    query = torch.zeros(6, 512, 16)
    layer = {"query": query, "key": torch.zeros(2, 131_072, 16)}
    held = {"model": "m", "tokens": 131_072, "layers": {4: layer, 13: layer, 22: layer}}
    torch.save(held, tmp_path / "keys.pt")
    found = load_real_keys(tmp_path / "keys.pt")
    measure = real_measure("K3i", [found])
    assert measure is not None
    assert measure[1] == "T=512 N=131072 of m"
    assert real_measure("K7", [found]) is None
    torch.save({**held, "layers": {4: layer}}, tmp_path / "keys.pt")
    with pytest.raises(ValueError, match="lack layer 13, layer 22"):
        real_measure("K3i", [load_real_keys(tmp_path / "keys.pt")])
    torch.save({**held, "tokens": 131_071}, tmp_path / "keys.pt")
    with pytest.raises(ValueError, match="not of one layer and 131071 tokens"):
        load_real_keys(tmp_path / "keys.pt")
    (tmp_path / "keys.pt").write_text("else")
    with pytest.raises(ValueError, match="gpu_real_keys"):
        load_real_keys(tmp_path / "keys.pt")
