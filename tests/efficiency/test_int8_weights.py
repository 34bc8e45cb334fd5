"""Random weights as 8-bit integers: of shapes only, refused where they cannot be made."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tiny_models import random_prompt

from reattention_eval import ReAttention, attach
from reattention_eval.efficiency.e2e.models import about_model, check_name, random_model
from reattention_eval.efficiency.shape import published_config, shape_of
from reattention_eval.errors import ConfigError
from reattention_eval.weight_parts import held_bytes

CPU = torch.device("cpu")
CONFIG = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 97,
    "max_position_embeddings": 512, "rope_theta": 10_000.0, "tie_word_embeddings": True,
}  # fmt: skip


def test_what_cannot_be_made_is_said_before_anything_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="unknown weights 'int4'; there is int8"):
        check_name("LLaMA3.1-70B", "int4")
    with pytest.raises(ConfigError, match="has weights of its own"):
        check_name(str(tmp_path), "int8")
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ConfigError, match=r"pip install 'reattention-eval\[torchao\]'"):
        check_name("LLaMA3.1-70B", "int8")


def test_a_shape_of_eight_bits_is_half_as_large_but_for_its_tables() -> None:
    config = published_config("meta-llama/Llama-3.1-70B")
    assert config is not None
    shape = shape_of(config)
    assert shape.bytes(2) == 2 * shape.parameters
    quantised = shape_of({**config, "quantization_config": {"load_in_8bit": True}})
    tables = shape.parameters - shape.layers * shape.layer_parameters
    assert quantised.bytes(2) == shape.layers * shape.layer_parameters + 2 * tables
    assert 69e9 < quantised.bytes(2) < 73e9


@pytest.mark.torchao
def test_the_model_is_that_of_its_dequantised_weights() -> None:
    from torchao.quantization import Int8Tensor

    model = random_model(CONFIG, CPU, "float32", None, "int8")
    linear = [m.weight for m in model.model.modules() if isinstance(m, torch.nn.Linear)]
    assert all(isinstance(weight.data, Int8Tensor) for weight in linear)
    shape = about_model("LLaMA3.1-8B", model, "int8")["shape"]
    assert shape["weight_bits"] == 8
    plain = random_model(CONFIG, CPU, "float32")
    assert held_bytes(model) < 0.45 * held_bytes(plain)  # tables stay
    own = dict(plain.named_parameters())
    for name, weight in model.named_parameters():
        is_packed = isinstance(weight.data, Int8Tensor)
        own[name].data = weight.data.dequantize() if is_packed else weight.data
    method = ReAttention(global_size=2, local_size=24, span_size=4, max_spans=4, chunk_size=12)
    found = []
    for one in (model, plain):
        with attach(one, method) as session:
            found.append(session.prefill(random_prompt(90)))
            session.check_selected()
    torch.testing.assert_close(*found, rtol=0, atol=1e-4)
