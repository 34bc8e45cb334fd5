"""Every process reads its own part of a checkpoint; the parts together are the whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from faithful_checkpoints import INTERNLM2, NINE, checkpoint_of, write_miniature
from safetensors.torch import load_file, save_file

from reattention_eval.checkpoints import load_model, split_model
from reattention_eval.checkpoints.split_model import load_split_model
from reattention_eval.errors import CheckpointError, ConfigError
from reattention_eval.parallel import Ranks

CPU = torch.device("cpu")


def parts_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[torch.nn.Module]:
    """What two processes would hold, loaded one after the other."""
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(split_model, "join", lambda size, rank=rank: Ranks(rank, size, CPU))
        parts.append(load_split_model(folder, 2, "float32")[0])
    return parts


def joined(name: str, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    rows = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "embed_tokens", "lm_head")
    kind, role = name.split(".")[-2:]
    if kind in rows:
        return torch.cat((first, second))
    if kind in ("o_proj", "down_proj") and role == "weight":
        return torch.cat((first, second), 1)
    assert torch.equal(first, second)
    return first


def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = load_model(folder, dtype="float32")
    first, second = (dict(part.named_parameters()) for part in parts_of(folder, monkeypatch))
    stored = dict(whole.named_parameters())
    assert first.keys() == second.keys() == stored.keys()
    for name, parameter in stored.items():
        assert torch.equal(joined(name, first[name], second[name]), parameter), name
    assert sum(p.numel() for p in first.values()) < 0.6 * sum(p.numel() for p in stored.values())


@pytest.mark.parametrize("hub_id", NINE, ids=lambda hub_id: hub_id.rsplit("/", 1)[-1])
def test_the_nine(hub_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(checkpoint_of(hub_id), monkeypatch)


def test_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(write_miniature(INTERNLM2, tmp_path / "m", archive=True, bias=True), monkeypatch)


def test_rope_and_generation_settings_are_the_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint_of("meta-llama/Llama-3.1-8B")
    whole, _ = load_model(folder, dtype="float32")
    part = parts_of(folder, monkeypatch)[1]
    assert torch.equal(part.model.rotary_emb.inv_freq, whole.model.rotary_emb.inv_freq)
    assert part.generation_config.eos_token_id == whole.generation_config.eos_token_id
    assert not any(tensor.is_meta for tensor in (*part.parameters(), *part.buffers()))


def test_a_missing_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_miniature("meta-llama/Llama-3.1-8B", tmp_path / "m")
    path = next(p for p in sorted(folder.glob("*.safetensors")) if lacking(p))
    tensors = load_file(path)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"lack 1 tensors .*layers\.0\.mlp\.up_proj\.weight"):
        parts_of(folder, monkeypatch)


def test_fewer_layers_than_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_miniature("meta-llama/Llama-3.1-8B", tmp_path / "m")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 1}))
    with pytest.raises(CheckpointError, match=r"layers\.1\..* that the model has no place for"):
        parts_of(folder, monkeypatch)


def lacking(path: Path) -> bool:
    return "model.layers.0.mlp.up_proj.weight" in load_file(path)


def test_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint_of("Qwen/Qwen2-1.5B")
    monkeypatch.setattr(split_model, "read_tensors", lambda folder: pytest.fail("weights read"))
    with pytest.raises(ConfigError, match="=3 does not divide the model's 2 KV heads"):
        load_split_model(folder, 3)
    with pytest.raises(ConfigError, match="leave one of them out"):
        load_split_model(folder, 2, device_map="auto")
    with pytest.raises(ConfigError, match="needs 2 processes and 1 started"):
        load_split_model(folder, 2)
