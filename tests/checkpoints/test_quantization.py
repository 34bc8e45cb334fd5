"""Quantised weights: transformers' configurations arrive, and what cannot be is refused first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rounded_weights import METHOD, rounded
from tiny_checkpoints import save_checkpoint
from tiny_models import random_prompt
from tiny_tokenizers import tiny_tokenizer
from transformers import AutoModelForCausalLM

from reattention_eval import ReAttention, attach
from reattention_eval.checkpoints import load_model
from reattention_eval.checkpoints.load import load
from reattention_eval.checkpoints.quantization import weight_bits
from reattention_eval.efficiency import Placement, plan_memory, read_shape, shape_of
from reattention_eval.errors import ConfigError
from reattention_eval.harness import PromptRunner
from reattention_eval.harness.compose.model_method_pairs import model_method_pairs
from reattention_eval.harness.manifest import model_part
from reattention_eval.harness.memory_check import check_memory
from reattention_eval.harness.samples import Sample
from reattention_eval.methods import build_method

SMALL = ReAttention(4, 64, 8, 3, 9, chunk_size=64)
AO_INT8 = {
    "quant_method": "torchao",
    "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {}}},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("quantised") / "tiny-llama", tiny_tokenizer())


def answer(model: Any, prompt: torch.Tensor) -> torch.Tensor:
    with attach(model, SMALL) as session:
        logits = session.prefill(prompt)
        session.check_selected()
        return logits


def test_the_configuration_arrives_and_the_method_runs(checkpoint: Path) -> None:
    """The same logits as of a model whose weights were rounded by hand."""
    prompt = random_prompt(300)
    by_hand = load(checkpoint, dtype="float32")
    plain = answer(by_hand, prompt)
    for name, module in by_hand.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            rounded(module.weight.data, 15)
    model = load(checkpoint, dtype="float32", quantization={"quant_method": METHOD, "levels": 15})
    assert model.config.quantization_config.levels == 15
    got = answer(model, prompt)
    torch.testing.assert_close(got, answer(by_hand, prompt), rtol=0, atol=1e-5)
    assert not torch.allclose(got, plain, atol=1e-2)


@pytest.mark.parametrize(
    ("quantization", "said"),
    [
        (
            {"quant_method": "nothing"},
            "no method that transformers knows .quant_method=.nothing.*there are: .*gptq",
        ),
        ({"bits": 4}, "no method that transformers knows .quant_method=None"),
        ({"quant_method": METHOD, "levels": 0}, "by rounded here: levels must be from 1 on, not 0"),
        ({"quant_method": "eetq"}, "by eetq here: .* Install what is missing"),
        ({"quant_method": "gptq", "bits": 4}, "by gptq here: "),
        ("int8", "quantization must be a mapping .* found str"),
    ],
)
def test_what_cannot_be_is_refused_before_weights_are_read(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, quantization: Any, said: str
) -> None:
    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", read)
    with pytest.raises(ConfigError, match=said):
        load_model(checkpoint, quantization=quantization)


def test_other_checkpoints_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    own = {"model_type": "internlm2", "quantization_config": None}
    twice = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    for name, more, said in (
        ("internlm2", own, "InternLM2 checkpoint"),
        ("gptq", twice, "are quantised already, by gptq"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        for file in checkpoint.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / "config.json").write_text(json.dumps({**config, **more}))
        with pytest.raises(ConfigError, match=said):
            load_model(folder, quantization={"quant_method": METHOD})
    with pytest.raises(ConfigError, match="gptq are quantised by gptq and cannot be read here"):
        load_model(tmp_path / "gptq")
    assert load_model(tmp_path / "gptq", tokenizer_only=True)[0] is None
    with pytest.raises(ConfigError, match="not split over tensor_parallel=2"):
        PromptRunner(str(checkpoint), tensor_parallel=2, quantization={"quant_method": METHOD})


def test_a_run_knows_its_quantisation(checkpoint: Path) -> None:
    """In the manifest, in the fingerprint by which runs go on, and in the model's name."""
    path = str(checkpoint)
    entries: list[dict[str, Any]] = [{"path": path, "type": "LongContextLM"}]
    quantization = {"quant_method": METHOD, "levels": 15}
    entries += [{**entries[0], "quantization": {**quantization, "levels": n}} for n in (15, 127)]
    names = [model_method_pairs([entry], [{"type": "full"}])[0]["abbr"] for entry in entries]
    assert len(set(names)) == 3
    plain = PromptRunner(path, dtype="float32")
    assert "quantization" not in plain.settings()
    runner = PromptRunner(path, dtype="float32", quantization=quantization)
    part = model_part(runner)
    assert part["settings"]["quantization"] == quantization
    assert part["fingerprint"] != plain.fingerprint()
    sample = [Sample("the dog and the fox and " * 20)]
    (one,), (other,) = plain.run(sample, 12), runner.run(sample, 12)
    assert one.text != other.text
    assert one.record["head_ids"] == other.record["head_ids"]
    plain.close()
    runner.close()


@pytest.mark.parametrize(
    ("settings", "bits"),
    [
        (AO_INT8, 8.0),
        ({"quant_method": "torchao", "quant_type": "int4_weight_only"}, 4.5),
        ({"load_in_8bit": True}, 8.0),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 4.25),
        ({"quant_method": "fp8"}, 8.0),
        ({"quant_method": "quanto", "weights": "int8"}, 8.0),
        ({"quant_method": "aqlm"}, None),
        ({}, None),
    ],
)
def test_the_size_of_a_weight(settings: dict[str, Any], bits: float | None) -> None:
    assert weight_bits(settings) == bits


def test_plans_count_quantised_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from reattention_eval.checkpoints.miniature import CONFIGS
    from reattention_eval.harness import memory_check

    hub_id = "meta-llama/Llama-3.1-70B"
    whole = read_shape(hub_id)
    config = {**CONFIGS[hub_id], "quantization_config": {"quant_method": "gptq", "bits": 4}}
    method = build_method("reattention")
    sizes = [plan_memory(s, method, 1000, Placement()).weights for s in (whole, shape_of(config))]
    layers = 80 * whole.layer_parameters
    assert sizes[0] - sizes[1] == pytest.approx(layers * (2 - 4.25 / 8), rel=1e-6)
    monkeypatch.setattr(memory_check, "accelerator_memory", lambda: [(140 << 30, 141 << 30)])
    entry: dict[str, Any] = {"path": hub_id, "abbr": "70B", "dtype": "bfloat16"}
    asked = [
        {"infer_cfg": {"inferencer": {"max_out_len": 16, "dataset_facts": {"length": 131072}}}}
    ]
    with pytest.raises(ConfigError, match="70B: a prompt of 131,088 tokens needs"):
        check_memory(entry, asked)
    check_memory({**entry, "quantization": AO_INT8}, asked)
    check_memory({**entry, "quantization": {"quant_method": "aqlm"}}, asked)  # not known


@pytest.mark.torchao
def test_int8_weights_of_torchao(checkpoint: Path, tmp_path: Path) -> None:
    """A real library: eight bits are held, they count, and all of a session works on them."""
    from torchao.quantization import Int8Tensor

    prompt = random_prompt(300)
    plain = load(checkpoint, dtype="float32")
    model = load(checkpoint, dtype="float32", quantization=AO_INT8)
    weights = [m.weight for m in model.model.modules() if isinstance(m, torch.nn.Linear)]
    assert len(weights) == 14
    assert all(isinstance(weight.data, Int8Tensor) for weight in weights)
    assert all(weight.data.qdata.dtype == torch.int8 for weight in weights)
    got = answer(model, prompt)
    assert not torch.allclose(got, answer(plain, prompt), atol=1e-2)
    held = dict(plain.named_parameters())
    for name, weight in model.named_parameters():
        if isinstance(weight.data, Int8Tensor):
            held[name].data = weight.data.dequantize()
    torch.testing.assert_close(got, answer(plain, prompt), rtol=0, atol=1e-4)
    with attach(model, SMALL) as session:
        tokens = session.generate(prompt, max_new_tokens=8)
        session.prefill(prompt)
        session.save(tmp_path / "saved")
    with attach(model, SMALL) as session:
        session.load(tmp_path / "saved")
        assert torch.equal(session.generate(max_new_tokens=8), tokens)
        session.check_selected()
    with attach(plain, SMALL) as session, pytest.raises(ConfigError):
        session.load(tmp_path / "saved")  # other weights
    runner = PromptRunner(
        str(checkpoint), {"type": "reattention", **SMALL.settings()}, dtype="float32",
        quantization=AO_INT8,
    )  # fmt: skip
    (output,) = runner.run([Sample("the dog and the fox and " * 40)], 6)
    assert output.record["layer_steps_selected"] > 0
    assert model_part(runner)["settings"]["quantization"] == AO_INT8
    runner.close()
