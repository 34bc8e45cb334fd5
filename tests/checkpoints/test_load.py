from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from families import tiny_config, tiny_family
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model
from tiny_tokenizers import tiny_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from reattention_eval.checkpoints import check_access, load, load_model
from reattention_eval.checkpoints.load_checks import check_model
from reattention_eval.errors import CheckpointError, ConfigError


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, torch.nn.Module]:
    folder = tmp_path_factory.mktemp("whole")
    model = tiny_model("llama", dtype=torch.float32)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder, model


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy that a test may break."""
    for path in saved[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture
def sharded(saved, tmp_path) -> Path:
    saved[1].save_pretrained(tmp_path, max_shard_size="40KB")
    tiny_tokenizer().save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    return tmp_path


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_whole_folder_gives_the_saved_model(tmp_path, family):
    truth = tiny_model(family, dtype=torch.float32)
    truth.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model, tokenizer = load_model(str(tmp_path), dtype="float32")
    ids = torch.arange(50)[None] % 97
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, truth(ids).logits, rtol=1e-4, atol=1e-4)
    assert not model.training
    assert model.config._attn_implementation == "sdpa"
    assert tokenizer.decode(tokenizer("The dog")["input_ids"]) == "The dog"


@pytest.mark.parametrize("family", ["olmo3", "phi"])
def test_families_whose_rotary_modules_have_other_names_or_sizes(tmp_path, family):
    truth = tiny_family(family)
    truth.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model, _ = load_model(tmp_path, dtype="float32")
    ids = torch.arange(50)[None] % 97
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, truth(ids).logits, rtol=1e-4, atol=1e-4)


def test_shards_are_put_together(sharded, saved):
    model, _ = load_model(sharded, dtype=torch.float32)
    for name, tensor in saved[1].state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_only_the_tokenizer(folder):
    (folder / "model.safetensors").unlink()
    model, tokenizer = load_model(folder, tokenizer_only=True)
    assert model is None
    assert tokenizer("dog")["input_ids"]


def test_a_tokenizer_saved_by_transformers_5_loads_on_4_too(folder):
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "tokenizer_class": "TokenizersBackend"}))
    _, tokenizer = load_model(folder, tokenizer_only=True)
    assert set(tokenizer("The dog")) == {"input_ids", "attention_mask"}  # for model.generate(**...)
    assert tokenizer("The dog")["input_ids"] == tiny_tokenizer()("The dog")["input_ids"]
    assert tokenizer.eos_token == "</s>"


@pytest.mark.parametrize("name", ["float16", "bfloat16", "torch.float32", torch.float64])
def test_dtype_by_name(folder, name):
    model, _ = load_model(folder, dtype=name)
    assert str(model.dtype).endswith(str(name).removeprefix("torch."))


@pytest.mark.parametrize(("has_bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_dtype_asks_the_processor(monkeypatch, has_bf16, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: has_bf16, raising=False)
    assert load.pick_dtype("auto") == dtype


@pytest.mark.parametrize(("has_bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_dtype_asks_the_gpu(monkeypatch, has_bf16, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert load.pick_dtype("auto") == dtype


def test_unknown_dtype():
    with pytest.raises(ConfigError, match="unknown dtype 'int3'; choose from auto, bfloat16"):
        load.pick_dtype("int3")


def no_folder(folder: Path) -> Path:
    return folder / "none"


def a_file(folder: Path) -> Path:
    return folder / "config.json"


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def bad_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def unknown_kind(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "nonesuch"}')


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def only_gguf(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.gguf")


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def truncated_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def emptied(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def not_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"<html>404 not found</html>" * 50)


def tensor_lacking(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def other_shape(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "intermediate_size": 64}))


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def damaged_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text()[:500])


def without_rope(folder: Path) -> None:
    config = GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder)


def fewer_layers(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    settings["num_hidden_layers"] = 1
    settings.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(settings))


def damaged_generation(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": 2')


def no_generation_settings(folder: Path) -> None:
    (folder / "generation_config.json").write_text("[2]")


BROKEN = {
    fewer_layers: r"hold 9 tensors that the model has no place for \(first: model\.layers\.1\.",
    damaged_generation: r"generation_config\.json cannot be read",
    no_generation_settings: r"generation_config\.json cannot be read \(it holds a list",
    no_folder: "does not exist; check the path, or give a hub id",
    a_file: "is a file; give the folder",
    no_config: "holds no config.json",
    bad_config: r"config\.json cannot be read",
    unknown_kind: "config.json of .* cannot be loaded",
    no_weights: "holds a config but no weights; it needs model.safetensors",
    only_gguf: r"no weights \(a GGUF file, model.gguf, is not loaded\)",
    truncated: r"has [\d,]+ bytes where its header says [\d,]+: the download or copy was cut off",
    truncated_header: "is not a whole safetensors file .* longer than the file",
    emptied: r"is not a whole safetensors file \(0 bytes",
    not_safetensors: "is not a whole safetensors file",
    tensor_lacking: r"lack 1 tensors of the model \(first: model.layers.1.mlp.up_proj.weight\)",
    other_shape: "do not load .* config.json belongs to these weights",
    no_tokenizer: "the tokenizer of .* cannot be loaded",
    damaged_tokenizer: "the tokenizer of .* cannot be loaded",
    without_rope: "is a gpt2 model, which has no rotary position embedding; use a RoPE decoder",
}


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_a_broken_folder_is_refused_in_one_clear_sentence(folder, damage):
    with pytest.raises(CheckpointError, match=BROKEN[damage]) as caught:
        load_model(damage(folder) or folder, dtype="float32")
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_named(sharded):
    gone = sorted(sharded.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(CheckpointError, match=rf"lacks 1 of its \d+ weight files \({gone.name}\)"):
        load_model(sharded)


def test_a_truncated_shard_is_named(sharded):
    cut = sorted(sharded.glob("model-*.safetensors"))[1]
    cut.write_bytes(cut.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=rf"{cut.name} has .* cut off"):
        load_model(sharded)


def test_a_hub_id_without_a_network(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("We couldn't connect to the hub\nand more")

    monkeypatch.setattr("transformers.PretrainedConfig.get_config_dict", offline)
    with pytest.raises(
        CheckpointError, match=r"owner/name is neither a folder here nor .* network"
    ):
        load_model("owner/name")


def test_access_without_loading(sharded, folder, tmp_path_factory):
    check_access(sharded)
    gone = sorted(sharded.glob("model-*.safetensors"))[0]
    gone.unlink()
    with pytest.raises(CheckpointError, match=rf"lacks 1 of its \d+ weight files \({gone.name}\)"):
        check_access(sharded)
    with pytest.raises(CheckpointError, match="does not exist; check the path, or give a hub id"):
        check_access(tmp_path_factory.mktemp("x") / "none")


def test_what_this_machine_has_not_is_said_before_weights_are_read(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (folder / "model.safetensors").write_bytes(b"not read")
    wrong = [
        (dict(device_map="gpu"), "'gpu', which is no device; give cpu, cuda:0, auto"),
        (dict(device_map={"": "cuda:3"}), "names cuda:3, and PyTorch sees 0 GPUs here"),
        (dict(device_map=0), "names cuda:0, and PyTorch sees 0 GPUs here"),
        (dict(attn_implementation="flash_attention_9"), "'flash_attention_9' cannot run here"),
    ]
    monkeypatch.setattr("reattention_eval.checkpoints.load.check_folder", lambda *a, **k: None)
    for settings, reason in wrong:
        with pytest.raises(ConfigError, match=reason):
            load_model(folder, **settings)


@pytest.mark.parametrize(
    ("family", "says"),
    [("deepseek_v3", "multi-head latent attention"), ("gemma3", "load its text model alone")],
)
def test_what_no_method_serves_is_said_before_weights_are_read(family, says):
    with pytest.raises(ConfigError, match=says):
        check_model(tiny_config(family), "here", "sdpa")
