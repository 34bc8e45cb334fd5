"""Eviction in use: what is refused, conversations, models, memory, the question of a sample."""

from __future__ import annotations

import pytest
import torch
from test_eviction import (
    ADAKV,
    KEEP,
    NAMED,
    N,
    method_of,
    model_of,
)
from tiny_checkpoints import save_checkpoint
from tiny_models import random_prompt
from tiny_tokenizers import tiny_tokenizer
from transformers import GemmaConfig, GemmaForCausalLM

from reattention_eval import attach
from reattention_eval.efficiency import Placement, plan_memory, shape_of
from reattention_eval.engine import native
from reattention_eval.engine.scoring import token_nll
from reattention_eval.errors import ConfigError
from reattention_eval.harness.prompt_runner import PromptRunner
from reattention_eval.harness.samples import Sample
from reattention_eval.methods import build_method
from reattention_eval.methods.kvpress_library import press_names


@pytest.mark.parametrize("name", [*NAMED, "kvpress"])
def test_what_is_refused_while_reading(name):
    model, prompt = model_of(), random_prompt(N)
    with attach(model, method_of(name, KEEP)) as session:
        with pytest.raises(ConfigError, match=r"found a batch of 2; use batch_size=1"):
            session.prefill(random_prompt(30, rows=2))
        with pytest.raises(ConfigError, match="use_cache=True"):
            model(prompt, use_cache=False)
        with pytest.raises(ConfigError, match="likelihood of a text would be full attention's"):
            token_nll(session, prompt)
        session.prefill(prompt[:, :50])
        with pytest.raises(ConfigError, match="Read the whole conversation as one prompt"):
            session.extend(prompt)
    with attach(model, method_of(name, KEEP, query_aware=False)) as session:
        for read in (session.prefill, model, session.generate):
            with pytest.raises(ConfigError, match="does not say where its document ends"):
                read(prompt)
        with pytest.raises(ConfigError, match="the 101 behind the document leave nothing"):
            session.prefill(prompt, document_tokens=N - 101)
        if always := session.method.always_kept:
            with pytest.raises(ConfigError, match=f"of which {always} are kept whatever they are"):
                session.prefill(prompt, document_tokens=N - KEEP + always)
        with pytest.raises(ConfigError, match="document_tokens are 201, of a prompt of 200 tokens"):
            session.prefill(prompt, document_tokens=N + 1)
        with pytest.raises(ConfigError, match="document_tokens is of a single prompt"):
            session.prefill(random_prompt(30, rows=2), document_tokens=10)


def test_a_conversation_goes_on_behind_a_compressed_prompt():
    model, prompt, turn = model_of(), random_prompt(N), random_prompt(9, seed=4)
    for name in ("snapkv", "pyramidkv"):
        with attach(model, method_of(name, KEEP)) as session:
            session.prefill(prompt)
            nll = session.answer_nll([5, 6])
            found = session.extend(turn)
            assert session.lengths == [N + 9]
            assert session.stats.keys_kept == KEEP + 9
            session.prefill(prompt)
            for token in turn[0]:
                expected = session.decode(token[None, None])
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
            session.prefill(prompt)
            assert session.answer_nll([5, 6]) == nll


def test_a_prompt_of_the_users_own_takes_what_is_kept_beside_the_cache():
    """Which keys AdaKV masks lies on the model's modules, and is the last prompt's."""
    model, prompt = model_of(), random_prompt(60)
    with attach(model, {**ADAKV, "budget_tokens": 20}) as session:
        session.prefill(prompt)
        expected = session.generate(max_new_tokens=4)
        session.prefill(prompt)
        model(random_prompt(50, seed=3))
        with pytest.raises(ConfigError, match="Call prefill first"):
            session.generate(max_new_tokens=4)
        session.prefill(prompt)
        assert torch.equal(session.generate(max_new_tokens=4), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(type="kvpress", press="SnapPress"), "no press 'SnapPress'; there are: .*SnapKVPress"),
        (
            dict(type="kvpress", press="KVzipPress"),
            "KVzipPress cannot be used: it reads",
        ),
        (dict(type="kvpress", press="ThinKPress"), "ThinKPress cannot be used: it drops channels"),
        (dict(type="kvpress", press="KeyRerotationPress"), "moves the keys"),
        (dict(type="kvpress", press_settings=dict(window=3)), "KnormPress has no setting window"),
        (dict(type="kvpress", press="BlockPress"), "BlockPress does not take {} .*press, block"),
        (
            dict(type="kvpress", press="BlockPress", press_settings=dict(press="Diff")),
            "no press 'Diff'",
        ),
        (
            dict(type="kvpress", press_settings=dict(compression_ratio=0.5)),
            "follows from budget_tokens",
        ),
    ],
    ids=str,
)
def test_presses_that_are_none(settings, message):
    with pytest.raises(ConfigError, match=message):
        build_method(settings).check_machine()


def test_every_press_offered_can_be_named():
    assert {*NAMED.values(), "AdaKVPress", "KnormPress"} < set(press_names())
    assert not {"BasePress", "ScorerPress", "DecodingPress", "FinchPress"} & set(press_names())


def test_models_that_kvpress_was_not_written_for():
    sliding = model_of("mistral", sliding_window=64)
    with pytest.raises(ConfigError, match="sliding window"), attach(sliding, "snapkv"):
        pass
    config = GemmaConfig(
        vocab_size=97, hidden_size=32, head_dim=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    gemma = GemmaForCausalLM(config).eval()
    with (
        pytest.raises(ConfigError, match=r"written for LlamaForCausalLM, .* is gemma;"),
        attach(gemma, "snapkv"),
    ):
        pass


def test_attention_that_does_not_fit_is_said_before(tmp_path, monkeypatch):
    folder = save_checkpoint(tmp_path / "tiny", tiny_tokenizer(), window=1024)
    text = "the dog and the fox " * 60
    runner = PromptRunner(str(folder), dict(type="h2o", budget_tokens=50), dtype="float32")
    assert runner.run([Sample(text)], 2)[0].record["keys_kept"] == 50 + 1
    monkeypatch.setattr(native, "free_bytes", lambda device: 100_000)
    with pytest.raises(ConfigError, match=r"h2o computes the attention .* as a whole: .* are free"):
        runner.run([Sample(text)], 2)
    monkeypatch.undo()
    assert runner.run([Sample(text)], 2)
    shape, place = shape_of(runner.model.config.to_dict()), Placement(dtype="float32")
    plans = [
        plan_memory(shape, build_method(name), 9000, place).workspace for name in ("snapkv", "h2o")
    ]
    heads = runner.model.config.num_attention_heads
    assert plans[1] - plans[0] == 9000 * 9000 * (heads * (4 + 4 + 4) + 4 + 1)


def test_the_question_reaches_the_method_from_a_sample(tmp_path):
    folder = save_checkpoint(tmp_path / "tiny", tiny_tokenizer(), window=1024)
    document, question = "the dog and the fox " * 40, "\nwho is the dog?"
    settings = dict(type="snapkv", budget_tokens=60, window_size=16)
    found = {}
    for aware in (True, False):
        runner = PromptRunner(str(folder), {**settings, "query_aware": aware}, dtype="float32")
        sample = Sample(document + question, " it is", answer="the fox", question=question)
        (output,) = runner.run([sample], 4)
        record = found[aware] = output.record
        assert record["must_select"]
        (first,) = runner.run([sample], 1)
        assert not first.record["must_select"]
        behind = record["n_tokens"] - record["document_tokens"]
        whole = runner.tokenizer(document + question + " it is", add_special_tokens=False)
        edges = [whole.token_to_chars(i)[1] for i in range(len(whole["input_ids"]))]
        assert behind == sum(edge > len(document) for edge in edges)
        assert record["keys_kept"] <= 60 + 4
        outputs = runner.run([sample], 4)
        assert outputs[0].text == output.text
    assert found[True]["answer_nll"] != found[False]["answer_nll"]
    assert found[False]["layer_steps_selected"] > found[True]["layer_steps_selected"]
