from __future__ import annotations

import pytest
import torch

from reattention_eval.checkpoints import gguf_model, load_model
from reattention_eval.checkpoints.gguf_model import convert_gguf
from reattention_eval.errors import CheckpointError

pytest.importorskip("gguf")
from naive_bpe import TEXTS, NaiveBPE
from tiny_gguf import THETA, write_gguf


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def converted(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    truth = write_gguf(root / "model.gguf", request.param)
    (root / "hf").mkdir()
    convert_gguf(root / "model.gguf", root / "hf")
    return root, truth


def test_the_converted_model_is_the_one_in_the_file(converted):
    root, truth = converted
    model, _ = load_model(root / "hf", dtype="float32")
    state, expected = model.state_dict(), truth.state_dict()
    assert type(model) is type(truth)
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name
    ids = torch.arange(40)[None] * 7 % model.config.vocab_size
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, truth(ids).logits)


def test_shards_and_pieces_hold_the_same_weights(converted, tmp_path, monkeypatch):
    root, truth = converted
    monkeypatch.setattr(gguf_model, "_SHARD_BYTES", 60_000)
    monkeypatch.setattr(gguf_model, "_PIECE_VALUES", 1000)
    convert_gguf(root / "model.gguf", tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    model, _ = load_model(tmp_path, dtype="float32")
    for name, tensor in truth.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_what_generation_and_rope_read_from_the_folder(converted):
    root, truth = converted
    model, tokenizer = load_model(root / "hf", dtype="auto")
    llama = model.config.model_type == "llama"
    assert tokenizer.eos_token_id == 4
    assert model.generation_config.eos_token_id == (4 if llama else [4, 0])
    # head_dim 16: the second frequency is theta ** (-2 / 16)
    assert model.model.rotary_emb.inv_freq[1].item() == pytest.approx(THETA ** (-2 / 16))
    assert tokenizer.bos_token == ("<|im_start|>" if llama else None)
    assert tokenizer("The dog")["input_ids"] == tokenizer.encode(
        "The dog", add_special_tokens=False
    )
    turn = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert turn == "<|im_start|>user\nx<|im_end|>\n"
    assert model.config.vocab_size == truth.config.vocab_size
    assert len(tokenizer) == truth.config.vocab_size - (0 if llama else 2)


def test_white_space_before_a_digit_stays_a_token_of_its_own(converted):
    root, _ = converted
    _, tokenizer = load_model(root / "hf", tokenizer_only=True)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("a 12  3")["input_ids"])
    assert tokens == ["a", "Ġ", "1", "2", "Ġ", "Ġ", "3"]


def test_ids_are_those_of_an_independent_tokenizer(tmp_path):
    from gguf import GGUFReader

    write_gguf(tmp_path / "model.gguf", "qwen2")
    convert_gguf(tmp_path / "model.gguf", tmp_path)
    _, tokenizer = load_model(tmp_path, tokenizer_only=True)
    reader = GGUFReader(tmp_path / "model.gguf")
    naive = NaiveBPE({name: field.contents() for name, field in reader.fields.items()})
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == naive.encode(text), text
    call = tokenizer.encode("<tool_call>")
    assert len(call) == 1 and tokenizer.decode(call, skip_special_tokens=True) == "<tool_call>"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(architecture="gemma"), "holds a gemma model"),
        (dict(pre="llama-bpe"), r"gpt2 tokenizer \(llama-bpe\); converted are llama and qwen2"),
        (dict(architecture="qwen2", scaling="yarn"), r"scales its RoPE \(yarn\)"),
    ],
)
def test_another_kind_of_model_is_refused(tmp_path, change, words):
    write_gguf(tmp_path / "other.gguf", **change)
    with pytest.raises(CheckpointError, match=words):
        convert_gguf(tmp_path / "other.gguf", tmp_path)


@pytest.mark.parametrize("keep", [2, 1000, 60_000])
def test_a_truncated_file_is_refused(converted, tmp_path, keep):
    root, _ = converted
    (tmp_path / "cut.gguf").write_bytes((root / "model.gguf").read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"cut\.gguf is not a whole GGUF file"):
        convert_gguf(tmp_path / "cut.gguf", tmp_path)
