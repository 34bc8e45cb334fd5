"""RoPE scaling methods: tables as loops of the papers' formulas, logits as transformers' own."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from tiny_checkpoints import save_checkpoint
from tiny_models import random_prompt, tiny_model
from tiny_tokenizers import tiny_tokenizer

from reattention_eval import attach
from reattention_eval.checkpoints import load_model
from reattention_eval.errors import ConfigError
from reattention_eval.harness.manifest import model_part
from reattention_eval.harness.prompt_runner import PromptRunner
from reattention_eval.harness.samples import Sample
from reattention_eval.methods import build_method

WINDOW = 32
METHODS = ["linear", "yarn", "dynamic_ntk"]
# what transformers is told, written as its own users write it
TYPES = {"linear": "linear", "yarn": "yarn", "dynamic_ntk": "dynamic"}


def plain(family="llama", **settings):
    model = tiny_model(family, **{"window": WINDOW, **settings})
    model.set_attn_implementation("sdpa")
    return model


def transformers_own(name, factor, family="llama", **settings):
    return plain(family, rope_scaling={"rope_type": TYPES[name], "factor": factor}, **settings)


def scaled(model, method):
    """The model as one loads it under `method`: the same weights."""
    out = type(model)(method.configure(copy.deepcopy(model.config)))
    out.load_state_dict(model.state_dict())
    out.set_attn_implementation("sdpa")
    return out.to(model.dtype).eval()


def naive_frequencies(name, dim, base, window, factor, length):
    """Radians a position of each pair of dimensions, and what cos and sin are multiplied by."""
    if name == "dynamic_ntk" and length > window:
        base = base * (factor * length / window - (factor - 1)) ** (dim / (dim - 2))
    found = []
    for pair in range(dim // 2):
        theta = base ** (-2 * pair / dim)
        if name == "linear":
            theta = theta / factor
        if name == "yarn":
            at = [dim / 2 * math.log(window / (2 * math.pi * r), base) for r in (32, 1)]
            low, high = max(math.floor(at[0]), 0), min(math.ceil(at[1]), dim - 1)
            kept = 1 - min(max((pair - low) / (high - low), 0), 1)
            rotations = window * theta / (2 * math.pi)
            if rotations >= 32 or rotations <= 1:  # equation 18, outside its ramp
                assert kept == (rotations >= 32)
            theta = (1 - kept) * theta / factor + kept * theta
        found.append(theta)
    return found, 0.1 * math.log(factor) + 1 if name == "yarn" else 1.0


@pytest.mark.parametrize("length", [5, 63, 64, 65, 250])
@pytest.mark.parametrize(("head_dim", "base"), [(16, 10_000.0), (64, 500_000.0)])
@pytest.mark.parametrize("factor", [1, 2.5, 4])
@pytest.mark.parametrize("name", METHODS)
def test_tables_are_the_papers_formulas(name, factor, head_dim, base, length):
    method = build_method(dict(type=name, factor=factor))
    model = plain(heads=2, head_dim=head_dim, layers=1, window=64, rope_theta=base)
    model = scaled(model, method)
    positions = torch.arange(length)[None]
    with attach(model, method):
        x = torch.zeros(1, dtype=torch.float64)
        cos, sin = model.model.rotary_emb(x, position_ids=positions)
    thetas, scale = naive_frequencies(name, head_dim, base, 64, factor, length)
    for position in {0, 1, length // 2, length - 1}:
        for dim in range(head_dim):
            angle = position * thetas[dim % (head_dim // 2)]
            close = pytest.approx(scale * math.cos(angle), abs=1e-6 + 1e-6 * position)
            assert cos[0, position, dim].item() == close
            close = pytest.approx(scale * math.sin(angle), abs=1e-6 + 1e-6 * position)
            assert sin[0, position, dim].item() == close


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("name", METHODS)
def test_logits_are_transformers_own(name, family):
    method = build_method(name)
    model = scaled(plain(family, heads=6, kv_heads=2), method)
    for tokens in (1, WINDOW - 3, WINDOW, WINDOW + 1, 3 * WINDOW + 1):
        own, prompt = (
            transformers_own(name, 4.0, family, heads=6, kv_heads=2),
            random_prompt(tokens),
        )
        with torch.no_grad():
            expected = own(prompt).logits[:, -1]
        greedy = own.generate(prompt, max_new_tokens=6, do_sample=False)[:, tokens:]
        with attach(model, method) as session:
            torch.testing.assert_close(session.prefill(prompt), expected, rtol=0, atol=1e-10)
            assert torch.equal(session.generate(prompt, 6), greedy)
            generated = model.generate(prompt, max_new_tokens=6, do_sample=False)
            assert torch.equal(generated[:, tokens:], greedy)


@pytest.mark.parametrize("name", METHODS)
def test_inside_the_window(name):
    prompt, method = random_prompt(WINDOW), build_method(name)
    with attach(plain(), "native_full") as session:
        expected = session.prefill(prompt), session.decode(torch.tensor([[5]]))
    with attach(scaled(plain(), method), method) as session:
        inside, beyond = session.prefill(prompt), session.decode(torch.tensor([[5]]))
    assert torch.equal(inside, expected[0]) == (name == "dynamic_ntk")
    assert not torch.equal(beyond, expected[1])


def test_a_factor_of_one_is_the_plain_model():
    prompt = random_prompt(3 * WINDOW)
    with attach(plain(), "native_full") as session:
        expected = session.prefill(prompt)
    for name in ("linear", "yarn"):
        method = build_method(dict(type=name, factor=1))
        with attach(scaled(plain(), method), method) as session:
            torch.testing.assert_close(session.prefill(prompt), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_nothing_read_before_changes_an_answer(name, dtype):
    method = build_method(name)
    model = scaled(plain(dtype=dtype), method)
    a, b = random_prompt(40), random_prompt(3 * WINDOW, seed=2)

    def answer(session, prompt):
        first = session.prefill(prompt)
        nll = session.answer_nll([5, 6, 7])
        return [first, session.decode(torch.tensor([[9]])), torch.tensor(nll)]

    with attach(model, method) as session:
        alone = answer(session, a)
    with torch.no_grad():
        model(b)  # transformers' module goes on with the frequencies of the longest prompt
    state = {key: value for key, value in vars(model.model.rotary_emb).items() if key[0] != "_"}
    frequencies = model.model.rotary_emb.inv_freq
    with attach(model, method) as session:
        for prompt in (a, b, random_prompt(WINDOW), a):
            found = answer(session, prompt)
        for ours, own in zip(found, alone, strict=True):
            assert torch.equal(ours, own)
    rotary = model.model.rotary_emb
    assert rotary.inv_freq is frequencies
    assert {key: value for key, value in vars(rotary).items() if key[0] != "_"} == state
    assert "forward" not in vars(rotary)


@pytest.mark.parametrize("name", METHODS)
def test_rows_of_a_batch_are_what_they_are_alone(name):
    method = build_method(name)
    model = scaled(plain(), method)
    rows, lengths = random_prompt(3 * WINDOW, rows=3), [3 * WINDOW, WINDOW - 2, WINDOW + 9]
    mask = torch.stack([torch.arange(3 * WINDOW) >= 3 * WINDOW - length for length in lengths])
    with attach(model, method) as session:
        alone = [session.generate(rows[i : i + 1, -n:], 6)[0] for i, n in enumerate(lengths)]
        logits = [session.prefill(rows[i : i + 1, -n:])[0] for i, n in enumerate(lengths)]
        found = session.prefill(rows, attention_mask=mask.long())
        torch.testing.assert_close(found, torch.stack(logits), rtol=0, atol=1e-10)
        together = session.generate(rows, 6, attention_mask=mask.long())
        for row, own in zip(together, alone, strict=True):
            assert torch.equal(row[: len(own)], own)


@pytest.mark.parametrize("name", METHODS)
def test_the_factor_follows_from_a_length(name):
    method = build_method(dict(type=name, length=WINDOW * 2 + 1))
    assert [method.factor_on(n) for n in (WINDOW, WINDOW * 2 + 1, 1000)] == [3.0, 1.0, 1.0]
    assert method.reach(WINDOW) == 3 * WINDOW
    assert build_method(name).reach(8192) == 4 * 8192
    assert build_method(name) == build_method(dict(type=name, factor=4))
    prompt = random_prompt(90)
    with torch.no_grad():
        expected = transformers_own(name, 3.0)(prompt).logits[:, -1]
    with attach(scaled(plain(), method), method) as session:
        torch.testing.assert_close(session.prefill(prompt), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(factor=0.5), "factor must be a number of at least 1, found 0.5"),
        (dict(factor=float("nan")), "found nan"),
        (dict(factor=float("inf")), "found inf"),
        (dict(factor=True), "found True"),
        (dict(factor="4"), "found '4'"),
        (dict(length=0), "length must be at least 1, found 0"),
        (dict(length=8.5), "length must be a whole number, found 8.5"),
        (dict(length=100, factor=2), "give factor or length, not both"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", METHODS)
def test_bad_settings(name, settings, message):
    with pytest.raises(ConfigError, match=f"{name}: .*{message}"):
        build_method(dict(type=name, **settings))


LLAMA3 = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=16, rope_theta=500_000.0,
)  # fmt: skip
LONGROPE = dict(
    rope_type="longrope", short_factor=[1.0] * 8, long_factor=[2.0] * 8, factor=4.0,
    original_max_position_embeddings=16,
)  # fmt: skip
YARN = dict(rope_type="yarn", factor=2.0, original_max_position_embeddings=16)


@pytest.mark.parametrize(
    "scaling",
    [LLAMA3, LONGROPE, YARN, dict(rope_type="dynamic", factor=2.5), dict(type="linear", factor=8)],
    ids=lambda scaling: scaling.get("rope_type", "linear"),
)
@pytest.mark.parametrize("name", METHODS)
def test_a_scaled_checkpoint_is_refused(name, scaling):
    config = plain(rope_scaling=dict(scaling)).config
    kind = scaling.get("rope_type", "linear")
    with pytest.raises(ConfigError, match=f"{name} needs .* llama model's is already .{kind}, fac"):
        build_method(name).configure(config)


@pytest.mark.parametrize("settings", [{}, {"factor": 2.5}, {"length": 100}], ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_configured_once_is_configured(name, settings):
    method = build_method(dict(type=name, **settings))
    config = plain(rope_theta=5e5).config
    once = method.configure(copy.deepcopy(config)).to_dict()
    twice = method.configure(method.configure(copy.deepcopy(config))).to_dict()
    assert once == twice != config.to_dict()
    assert once["max_position_embeddings"] == WINDOW
    other = build_method(dict(type=name, factor=7))
    with pytest.raises(ConfigError, match="already"):
        other.configure(method.configure(config))
    with pytest.raises(ConfigError, match="before it is loaded"), attach(plain(), method):
        pass


def test_a_checkpoint_without_head_dim():
    config = plain("mistral").config
    config.head_dim = None
    for name in METHODS:
        method = build_method(name)
        model = type(plain("mistral"))(method.configure(copy.deepcopy(config))).eval()
        with attach(model, method) as session:
            session.prefill(random_prompt(40))


@pytest.mark.parametrize("name", METHODS)
def test_a_rope_that_ignores_its_configuration_is_refused(name):
    method = build_method(name)
    model = scaled(plain(), method)
    model.model.rotary_emb.rope_type = "default"
    with pytest.raises(ConfigError, match=f"{name} is not what this LlamaForCausalLM"):  # noqa: SIM117
        with attach(model, method):
            pass


@pytest.mark.parametrize("name", METHODS)
def test_from_a_folder(name, tmp_path: Path):
    folder = save_checkpoint(tmp_path / "tiny", tiny_tokenizer(), window=WINDOW)
    method = build_method(dict(type=name, length=100))
    text = "the dog and the fox " * 12
    runner = PromptRunner(str(folder), dict(type=name, length=100), dtype="float32")
    (output,) = runner.run([Sample(text)], 8)
    assert output.record["n_tokens"] > WINDOW
    assert model_part(runner)["trained_window"] == WINDOW
    model, _ = load_model(folder, dtype="float32", configure=method.configure)
    ids = runner.tokenizer(text, return_tensors="pt")["input_ids"]
    own = model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
    assert output.text == runner.tokenizer.decode(own, skip_special_tokens=True)
    plain_text = PromptRunner(str(folder), dict(type="full"), dtype="float32").run(
        [Sample(text)], 8
    )
    assert output.text != plain_text[0].text


def test_a_folder_that_says_its_rope_under_both_names(tmp_path: Path):
    """As the embedded models are written, so that either version of transformers reads them."""
    folder = save_checkpoint(tmp_path / "tiny", tiny_tokenizer(), window=WINDOW)
    prompt, logits = random_prompt(2 * WINDOW), {}
    for both in (True, False):
        settings = json.loads((folder / "config.json").read_text())
        for name in ("rope_theta", "rope_scaling", "rope_parameters"):
            settings.pop(name, None)
        rope = {"rope_type": "default", "rope_theta": 5000.0}
        settings |= {"rope_theta": 5000.0} if both else {}
        settings["rope_parameters"] = rope
        (folder / "config.json").write_text(json.dumps(settings))
        for name in METHODS:
            method = build_method(name)
            model, _ = load_model(folder, dtype="float32", configure=method.configure)
            with attach(model, method) as session:
                logits[name, both] = session.prefill(prompt)
    assert all(torch.equal(logits[name, True], logits[name, False]) for name in METHODS)
