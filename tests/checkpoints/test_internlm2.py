"""InternLM2 checkpoints in their original layout, against a forward written from the paper."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from faithful_checkpoints import INTERNLM2, config_of, write_miniature
from naive_internlm2 import internlm2_logits
from safetensors.torch import load_file, save_file

from reattention_eval.checkpoints import internlm2, load_model, streaming
from reattention_eval.checkpoints.internlm2 import split_wqkv
from reattention_eval.errors import CheckpointError

IDS = [(7919 * i) % 600 + 9 for i in range(45)]


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors as they lie in the folder's files."""
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    for path in sorted(folder.glob("*.bin")):
        tensors |= torch.load(path, weights_only=True)
    return tensors


def compare(folder: Path, ids: list[int] = IDS, **settings: Any) -> torch.nn.Module:
    expected = internlm2_logits(stored(folder), config_of(folder), ids)
    model, _ = load_model(folder, dtype="float32", **settings)
    with torch.inference_mode():
        found = model(torch.tensor([ids])).logits[0].double()
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    return model


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("archive", [False, True], ids=["safetensors", "bin"])
def test_equals_the_original(tmp_path: Path, archive: bool, bias: bool) -> None:
    folder = write_miniature(INTERNLM2, tmp_path / "m", archive=archive, bias=bias)
    assert len(list(folder.glob("*.bin" if archive else "*.safetensors"))) == 3
    model = compare(folder)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.config._attn_implementation == "sdpa"
    assert not model.training
    names = {name for name, _ in model.named_parameters()}
    assert ("model.layers.0.self_attn.q_proj.bias" in names) == bias


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (8, 1), (6, 3)], ids=lambda n: str(n))
def test_grouping(tmp_path: Path, heads: int, kv_heads: int) -> None:
    sizes = dict(num_attention_heads=heads, num_key_value_heads=kv_heads, hidden_size=16 * heads)
    compare(write_miniature(INTERNLM2, tmp_path / "m", **sizes))


@pytest.mark.parametrize(
    ("scaling", "window"),
    [
        (None, 32768),
        ({"type": "dynamic", "factor": 2.0}, 20),
        ({"type": "dynamic", "factor": 2.5}, 44),
        ({"type": "linear", "factor": 4.0}, 32768),
    ],
    ids=["default", "dynamic-beyond", "dynamic-edge", "linear"],
)
def test_rope(tmp_path: Path, scaling: dict[str, Any] | None, window: int) -> None:
    """Inside the window and beyond it, where the dynamic base grows with the length."""
    folder = write_miniature(
        INTERNLM2, tmp_path / "m", rope_scaling=scaling, max_position_embeddings=window,
        rope_theta=10000,
    )  # fmt: skip
    compare(folder)


def test_one_file_and_a_changed_order_of_tensors(tmp_path: Path) -> None:
    folder = write_miniature(INTERNLM2, tmp_path / "m")
    tensors = stored(folder)
    for path in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
        path.unlink()
    backwards = {name: tensors[name].float() for name in reversed(tensors)}
    backwards["model.layers.0.attention.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(backwards, folder / "model.safetensors")
    compare(folder)


def test_settings_that_a_file_leaves_out_are_the_models_defaults(tmp_path: Path) -> None:
    folder = write_miniature(
        INTERNLM2, tmp_path / "m", bias=True, rope_theta=10000, rms_norm_eps=1e-6
    )
    config = config_of(folder)
    truth = internlm2_logits(stored(folder), config, IDS)
    for name in ("bias", "rope_theta", "rms_norm_eps", "hidden_act", "use_cache"):
        del config[name]
    (folder / "config.json").write_text(json.dumps(config))
    model, _ = load_model(folder, dtype="float32")
    with torch.inference_mode():
        found = model(torch.tensor([IDS])).logits[0].double()
    assert (found - truth).abs().max() <= 1e-5 * truth.abs().max()


def test_generation_settings_and_dtype_are_the_checkpoints(tmp_path: Path) -> None:
    folder = write_miniature(INTERNLM2, tmp_path / "m")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 8]}))
    model, _ = load_model(folder, dtype="bfloat16")
    assert model.generation_config.eos_token_id == [2, 8]
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    # frequencies stay in float32, as transformers keeps them
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    model.generate(torch.tensor([IDS]), max_new_tokens=2)


def test_fused_rows_are_those_of_the_groups() -> None:
    """Each row is marked with what it belongs to."""
    config = internlm2.llama_config(
        dict(
            vocab_size=8, hidden_size=24, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=8,
        ),
        "here",
    )  # fmt: skip
    rows = [f"{g}{part}{d}" for g in "01" for part in ("q0", "q1", "q2", "k", "v") for d in "abcd"]
    q, k, v = split_wqkv(torch.arange(len(rows))[:, None], config, "wqkv")
    named = [[rows[int(i)] for i in part.flatten()] for part in (q, k, v)]
    assert named[0] == [f"{g}q{h}{d}" for g in "01" for h in "012" for d in "abcd"]
    assert named[1] == [f"{g}k{d}" for g in "01" for d in "abcd"]
    assert named[2] == [f"{g}v{d}" for g in "01" for d in "abcd"]


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}], ids=str)
def test_device_maps(tmp_path: Path, device_map: Any) -> None:
    folder = write_miniature(INTERNLM2, tmp_path / "m")
    model = compare(folder, device_map=device_map)
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_layers_spread_over_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor goes straight to its own device, and accelerate moves what flows between."""
    accelerate = pytest.importorskip("accelerate")
    folder = write_miniature(INTERNLM2, tmp_path / "m")
    spread = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "meta",
              "model.norm": "meta", "model.rotary_emb": "cpu", "lm_head": "cpu"}  # fmt: skip
    told = []
    monkeypatch.setattr(
        accelerate, "dispatch_model", lambda model, device_map: told.append(device_map) or model
    )
    model, _ = load_model(folder, dtype="float32", device_map=spread)
    assert told == [spread]
    where = {name: p.device.type for name, p in model.named_parameters()}
    assert {where[n] for n in where if n.startswith("model.layers.1")} == {"meta"}
    assert where["model.layers.0.self_attn.k_proj.weight"] == where["lm_head.weight"] == "cpu"


def test_never_more_than_a_tensor_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_miniature(INTERNLM2, tmp_path / "m")
    read, alive, most = internlm2.read_tensors, weakref.WeakSet(), 0

    def watched(path: Path):
        nonlocal most
        for name, tensor in read(path):
            alive.add(tensor)
            yield name, tensor
            del tensor
            most = max(most, len(alive))

    monkeypatch.setattr(internlm2, "read_tensors", watched)
    load_model(folder, dtype="float32")
    assert 0 < most <= 2


def lacking(folder: Path) -> None:
    drop(folder, "model.layers.1.feed_forward.w3.weight")


def half_a_matrix(folder: Path) -> None:
    change(folder, "model.layers.0.attention.wqkv.weight", lambda t: t[:16])


def other_width(folder: Path) -> None:
    change(folder, "model.layers.0.feed_forward.w1.weight", lambda t: t[:, :16])


def foreign(folder: Path) -> None:
    rename(folder, "model.layers.0.ffn_norm.weight", "model.layers.0.lora.weight")


def foreign_outside(folder: Path) -> None:
    rename(folder, "output.weight", "value_head.weight")


def bias_without_place(folder: Path) -> None:
    rename(folder, "model.layers.0.attention_norm.weight", "model.layers.0.attention.wo.bias")


def other_scaling(folder: Path) -> None:
    settings = {**config_of(folder), "rope_scaling": {"type": "yarn", "factor": 2.0}}
    (folder / "config.json").write_text(json.dumps(settings))


def no_size(folder: Path) -> None:
    settings = config_of(folder)
    del settings["hidden_size"]
    (folder / "config.json").write_text(json.dumps(settings))


def missing_shard(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[1].unlink()


def no_tokenizer_model(folder: Path) -> None:
    (folder / "tokenizer.model").unlink()


def damaged_tokenizer_model(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(b"<html>404</html>")


def change(folder: Path, name: str, how: Any) -> None:
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        if name in tensors:
            save_file({**tensors, name: how(tensors[name]).contiguous()}, path)


def drop(folder: Path, name: str) -> None:
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        if tensors.pop(name, None) is not None:
            save_file(tensors, path)


def rename(folder: Path, name: str, other: str) -> None:
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        if name in tensors:
            tensors[other] = tensors.pop(name)
            save_file(tensors, path)


BROKEN = {
    lacking: r"lack 1 tensors of the model \(first: model.layers.1.mlp.up_proj.weight\)",
    half_a_matrix: r"wqkv.weight has 16 rows where 8 \+ 2 x 2 heads of 16 need 192; check that",
    other_width: r"has the shape \(96, 16\) where config.json asks for \(96, 128\); check",
    foreign: r"holds a tensor model.layers.0.lora.weight, which InternLM2 does not have; check",
    foreign_outside: r"holds a tensor value_head.weight, which InternLM2 does not have; check",
    bias_without_place: r"o_proj.bias that the model has no place for; check that config.json",
    other_scaling: r"asks for RoPE scaling .*yarn.*InternLM2 knows linear and dynamic",
    no_size: "does not state hidden_size; fetch the model again",
    missing_shard: r"lacks 1 of its 3 weight files \(model-00002-of-00003.safetensors\)",
    no_tokenizer_model: "the tokenizer of .* cannot be loaded",
    damaged_tokenizer_model: r"tokenizer.model is no sentencepiece model \(16 bytes\); fetch",
}


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_a_broken_checkpoint_is_refused_in_one_sentence(tmp_path: Path, damage: Any) -> None:
    folder = write_miniature(INTERNLM2, tmp_path / "m")
    damage(folder)
    with pytest.raises(CheckpointError, match=BROKEN[damage]) as caught:
        load_model(folder, dtype="float32")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", ["missing", "truncated"])
def test_broken_archives_are_named(tmp_path: Path, cut: str) -> None:
    folder = write_miniature(INTERNLM2, tmp_path / "m", archive=True)
    shard = folder / "pytorch_model-00002-of-00003.bin"
    if cut == "missing":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:5000])
    says = "lacks 1 of its 3 weight files" if cut == "missing" else "is not a whole file of tensors"
    with pytest.raises(CheckpointError, match=says):
        load_model(folder, dtype="float32")


@pytest.mark.parametrize(
    ("held", "says"),
    [
        ({"tok_embeddings": Path("/")}, "holds Python objects besides tensors"),
        ([1, 2], "is no file of named tensors"),
        ({"model.norm.weight": 3.0}, "is no file of named tensors"),
    ],
    ids=["objects", "a list", "numbers"],
)
def test_pickled_shards_are_named(tmp_path: Path, held: Any, says: str) -> None:
    folder = write_miniature(INTERNLM2, tmp_path / "m", archive=True)
    torch.save(held, folder / "pytorch_model-00002-of-00003.bin")
    with pytest.raises(CheckpointError, match=says) as caught:
        load_model(folder, dtype="float32")
    assert "\n" not in str(caught.value)


def test_a_spread_without_accelerate_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    config = internlm2.llama_config(config_of(write_miniature(INTERNLM2, tmp_path / "m")), "here")
    with pytest.raises(ValueError, match="pip install accelerate"):
        streaming.build_streaming(config, [], where="here", dtype=torch.float32, device_map="auto")
