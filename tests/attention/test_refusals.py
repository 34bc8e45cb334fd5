"""What is no decoder with RoPE and weights gets one sentence from `attach`, whatever it is."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny_models import random_prompt, tiny_model
from transformers import (
    AutoModel,
    BertConfig,
    BertForSequenceClassification,
    BloomConfig,
    BloomForCausalLM,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from reattention_eval import attach
from reattention_eval.context_length import context_length, known_context_length
from reattention_eval.errors import ConfigError


def meta():
    with torch.device("meta"):
        return LlamaForCausalLM(tiny_model().config)


def dropping():
    model = tiny_model(attention_dropout=0.5)
    return model.train()


def positioned():
    """Queries that grow with their position besides RoPE (as Ministral 3 and Llama 4 have them)."""
    model = tiny_model()
    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(grow, with_kwargs=True)
    return model


def grow(module, args, kwargs):
    cos, sin = kwargs["position_embeddings"]
    factor = 1 + (1 + kwargs["position_ids"][..., None] // 8192).log() / 2
    return args, {**kwargs, "position_embeddings": (cos * factor, sin * factor)}


SMALL = dict(vocab_size=97, hidden_size=32, num_hidden_layers=1)
CASES = {
    "a name": (lambda: "meta-llama/Llama-3.1-8B", "attach takes a loaded model, found 'meta-llama"),
    "None": (lambda: None, "found a NoneType"),
    "data parallel": (lambda: torch.nn.DataParallel(tiny_model()), "the model inside: its .module"),
    "a layer": (lambda: torch.nn.Linear(2, 2), "Linear is no transformers model"),
    "without head": (lambda: AutoModel.from_config(tiny_model().config), "no language-model head"),
    "meta": (meta, "has no weights"),
    "dropout": (dropping, "trains, with dropout; call model.eval"),
    "scaled by position": (positioned, "is not RoPE of its queries and keys alone"),
    "T5": (
        lambda: T5ForConditionalGeneration(
            T5Config(vocab_size=97, d_model=32, d_ff=32, num_layers=1, num_heads=2, d_kv=16)
        ),
        "is an encoder-decoder model",
    ),
    "Mamba": (lambda: MambaForCausalLM(MambaConfig(**SMALL)), "no rotary position embedding"),
    "Bloom": (
        lambda: BloomForCausalLM(BloomConfig(vocab_size=97, hidden_size=32, n_layer=1, n_head=2)),
        "no rotary position embedding",
    ),
    "classifier": (
        lambda: BertForSequenceClassification(
            BertConfig(**SMALL, num_attention_heads=2, intermediate_size=32)
        ),
        "no language-model head",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_sentence(case):
    make, words = CASES[case]
    with pytest.raises(ConfigError, match=words) as caught:
        attach(make(), "full").__enter__()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["full", "native_full"])
def test_a_model_trains_inside_the_block(method):
    model, prompt = tiny_model(attention_dropout=0.5), torch.tensor([[4, 5, 6]])
    with pytest.raises(ConfigError, match="trains, with dropout"), attach(model.train(), method):
        pass
    with attach(model.eval(), method) as session:
        expected = session.prefill(prompt)
        model.train()
        with pytest.raises(ConfigError, match="trains, with dropout"):
            session.prefill(prompt)
        model.eval()
        assert torch.equal(session.prefill(prompt), expected)


NO_NUMBERS = {
    "values": (1, "self_attn.v_proj.weight", torch.nan, "values"),
    "queries": (1, "self_attn.q_proj.weight", torch.nan, "queries"),
    "keys": (0, "self_attn.k_proj.weight", torch.nan, "keys"),
    "infinite values": (1, "self_attn.v_proj.weight", torch.inf, "values"),
    "of the layer before": (0, "mlp.down_proj.weight", torch.nan, "queries, keys and values"),
}


@pytest.mark.parametrize("case", NO_NUMBERS)
@pytest.mark.parametrize("method", ["full", "reattention"])
def test_weights_that_are_no_numbers_are_named(case, method):
    at, weight, number, what = NO_NUMBERS[case]
    model, name = tiny_model(), f"model.layers.{at}.{weight}"
    model.get_parameter(name).data[3, 4] = number
    layer = at if weight.startswith("self_attn") else at + 1
    words = (
        rf"layer {layer} attends with {what} that are no numbers \(\d+ NaN, \d+ infinite of \d+\)"
        rf".*{name}.*check its files, or load it with another dtype"
    )
    with pytest.raises(ConfigError, match=words) as caught:
        attach(model, dict(type=method, **SMALL_VIEW[method])).__enter__()
    assert "position" not in str(caught.value) and "RoPE" not in str(caught.value)


def test_activations_that_overflow_name_the_dtype():
    model = tiny_model(dtype=torch.float16)
    model.model.layers[0].self_attn.v_proj.weight.data.mul_(3e4)
    words = r"layer 0 attends with values that.*its weights show none.*overflows in torch\.float16"
    with pytest.raises(ConfigError, match=words):
        attach(model, "full").__enter__()


def test_frequencies_that_are_no_numbers_are_named():
    model = tiny_model()
    model.model.rotary_emb.inv_freq[2] = torch.nan
    with pytest.raises(ConfigError, match=r"queries and keys that.*model\.rotary_emb\.inv_freq"):
        attach(model, "full").__enter__()


def test_no_trained_window():
    model = tiny_model()
    model.config.max_position_embeddings = 0
    with pytest.raises(ConfigError, match="which count no tokens"):
        attach(model, "full").__enter__()
    assert context_length({"model_type": "odd"}) is None
    with pytest.raises(ConfigError, match="this odd model names no trained window"):
        known_context_length(SimpleNamespace(model_type="odd"))


SMALL_VIEW = {
    "full": {},
    "reattention": dict(global_size=2, local_size=8, span_size=2, max_spans=4, chunk_size=8),
}
CONVERSIONS = {
    "to a dtype": lambda model: model.to(torch.bfloat16),
    "half": lambda model: model.half(),
    "to a device": lambda model: model.to("meta"),
}


@pytest.mark.parametrize("convert", CONVERSIONS.values(), ids=CONVERSIONS)
def test_a_model_is_not_converted_inside_the_block(convert):
    model, prompt = tiny_model(dtype=torch.float32), random_prompt(40)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with attach(model, "full") as session:
        expected = session.generate(prompt, 3)
        assert model.to(torch.float32) is model.cpu() is model  # nothing to convert
        with pytest.raises(ConfigError, match="inside its `with attach"):
            convert(model)
        assert torch.equal(session.generate(prompt, 3), expected)
        assert all(torch.equal(model.state_dict()[name], was) for name, was in before.items())
    assert "_apply" not in vars(model)
    convert(model)


@pytest.mark.parametrize("method", ["full", "reattention"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_is_refused_around_the_block_and_in_it(method, dtype):
    model, prompt = tiny_model(dtype=dtype), random_prompt(40)
    method = dict(type=method, **SMALL_VIEW[method])
    words = r"torch\.autocast to torch\.bfloat16 holds on cpu.*model\.to\(torch\.bfloat16\)"
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ConfigError, match=words):
        attach(model, method).__enter__()
    with attach(model, method) as session:
        expected = session.prefill(prompt)
        for read in (
            lambda: session.prefill(prompt),
            lambda: session.extend(prompt),
            lambda: model.generate(prompt, max_new_tokens=1),
            lambda: model(prompt),
        ):
            with torch.autocast("cpu", torch.bfloat16), pytest.raises(ConfigError, match=words):
                read()
            assert torch.equal(session.prefill(prompt), expected)
    # nothing is refused where it is switched off again
    off = torch.autocast("cpu", enabled=False)
    with torch.autocast("cpu", torch.bfloat16), off, attach(model, method) as session:
        assert torch.equal(session.prefill(prompt), expected)


def test_a_layer_converted_inside_the_block_is_named():
    model, prompt = tiny_model(dtype=torch.float32), random_prompt(40)
    with attach(model, "full") as session:
        session.prefill(prompt)
        own = model.model.layers[1].self_attn.k_proj
        own.weight.data = own.weight.data.double()
        own.register_forward_pre_hook(lambda module, args: (args[0].double(),))
        with pytest.raises(ConfigError, match=r"layer 1 holds keys of torch\.float32 on cpu"):
            session.prefill(prompt)
