"""A config.json of transformers 5 gives the same model on 4.57, or a refusal."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from tiny_models import tiny_model
from tiny_tokenizers import tiny_tokenizer
from transformers import AutoModelForCausalLM

from reattention_eval import attach, load
from reattention_eval.errors import ConfigError

KINDS = {
    "default": {},
    "linear": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
    "llama3": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}  # fmt: skip
IDS = torch.arange(50)[None] % 97


@pytest.fixture(params=KINDS)
def written(request, tmp_path):
    """A folder as transformers 5 writes it, and the frequencies that it asks for."""
    kind = request.param
    model = tiny_model("llama", dtype=torch.float32)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    for name in ("rope_theta", "rope_scaling", "rope_parameters"):
        settings.pop(name, None)
    rope = {"rope_type": kind, "rope_theta": 5000.0, **KINDS[kind]}
    settings["rope_parameters"] = rope
    (tmp_path / "config.json").write_text(json.dumps(settings))
    return tmp_path, rope


def frequencies(model) -> torch.Tensor:
    return model.model.rotary_emb.inv_freq


def by_hand(rope, dim: int) -> torch.Tensor:
    return rope["rope_theta"] ** (-torch.arange(0, dim, 2) / dim)


def test_the_model_has_the_frequencies_that_the_file_names(written):
    folder, rope = written
    model = load(folder, dtype="float32")
    plain = by_hand(rope, 2 * len(frequencies(model)))
    if rope["rope_type"] == "default":
        torch.testing.assert_close(frequencies(model), plain)
    elif rope["rope_type"] == "linear":
        torch.testing.assert_close(frequencies(model), plain / rope["factor"])
    else:  # the fastest are kept and the slowest divided
        torch.testing.assert_close(frequencies(model)[:1], plain[:1])
        torch.testing.assert_close(frequencies(model)[-1:], plain[-1:] / rope["factor"])
    with attach(model, "full") as session, torch.inference_mode():
        torch.testing.assert_close(session.prefill(IDS)[0], model(IDS).logits[0, -1])


def test_a_model_whose_settings_were_not_read_is_refused(written):
    folder, _ = written
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if transformers.__version__.startswith("4."):
        with pytest.raises(ConfigError, match="does not read the RoPE settings"):
            attach(model, "full").__enter__()
    else:
        with attach(model, "full") as session:
            session.prefill(IDS)


def test_one_for_each_type_of_layers(written):
    folder, rope = written
    settings = json.loads((folder / "config.json").read_text())
    settings["rope_parameters"] = {"full_attention": rope, "sliding_attention": rope}
    (folder / "config.json").write_text(json.dumps(settings))
    if transformers.__version__.startswith("4."):
        with pytest.raises(ConfigError, match="install transformers 5"):
            load(folder)
