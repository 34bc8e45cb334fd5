"""`budget_tokens`: what it makes of every method's settings, and what is then really attended."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import transformers
from tiny_checkpoints import save_checkpoint
from tiny_models import random_prompt, tiny_model
from tiny_tokenizers import tiny_tokenizer

from reattention_eval import attach
from reattention_eval.errors import ConfigError
from reattention_eval.harness.prompt_runner import PromptRunner
from reattention_eval.harness.samples import Sample
from reattention_eval.methods import NativeMethod, build_method, list_methods, method_class, sized
from reattention_eval.methods.base import EVICTION

BUDGET, PROMPT = 128, 3 * 128
# settings beside the budget that make a method small enough for it
SMALL = {
    "dca": {"window_size": 256, "segment_size": 192},
    "infllm": {"global_size": 8, "local_size": 40, "block_size": 8},
    "lm_infinite": {"global_size": 8},
    "oracle_topp": {"p": 1.0},
    "quest": {"dense_layers": 0},
    "reattention": {"global_size": 16, "span_size": 8},
    "reattention_plus": {"global_size": 16, "span_size": 8},
    "self_extend": {"window_size": 64},
}


# kvpress runs on transformers 4 alone
NAMES = [
    name
    for name in list_methods()
    if "transformers 4" not in method_class(name).needs or transformers.__version__[0] == "4"
]
NEEDED = {"kvpress": {"press": "KnormPress"}}


def small(name, **more):
    chunk = {"chunk_size": 16} if "chunk_size" in fields(name) else {}
    return {"type": name, **chunk, **SMALL.get(name, {}), **NEEDED.get(name, {}), **more}


def fields(name):
    return [field.name for field in dataclasses.fields(method_class(name))]


def takes_budget(name):
    return bool(method_class(name).budget_meaning)


@pytest.mark.parametrize("name", NAMES)
def test_keys_attended_beyond_the_budget(name):
    """A prompt of three times the budget, then decode steps: none attends to more than the budget,
    or, where the method has none, to less than all."""
    method = build_method(small(name, **({"budget_tokens": BUDGET} if takes_budget(name) else {})))
    model, prompt = tiny_model(), random_prompt(PROMPT)
    if isinstance(method, NativeMethod):
        model = type(model)(method.configure(copy.deepcopy(model.config))).eval()
    with attach(model, method) as session:
        session.prefill(prompt)
        if takes_budget(name) and not method.reads_whole:
            assert 0 < session.stats.mean_view <= BUDGET
        for step, token in enumerate((5, 71, 9)):
            session.reset_stats()
            session.decode(torch.tensor([[token]]))
            attended = session.stats.mean_view  # of this one step, over the layers
            decoded, length = step + 1, PROMPT + step + 1
            assert session.stats.decode_view == attended
            if method.family == EVICTION:  # at the prompt's end; what is decoded stays
                assert BUDGET // 2 < attended <= method.budget + decoded
                assert session.stats.keys_kept <= method.budget + decoded
                continue
            assert session.stats.keys_kept == length
            if takes_budget(name):
                assert BUDGET // 2 < attended <= method.budget <= BUDGET
            else:
                assert attended == length
        session.check_selected()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokens", [8192, 16416])
def test_the_comparison_budgets(name, tokens):
    if not takes_budget(name):
        with pytest.raises(ConfigError, match=f"{name} attends to all keys.*leave it out"):
            build_method(dict(type=name, budget_tokens=tokens))
        assert build_method(name).budget is None
        return
    method = build_method(dict(type=name, budget_tokens=tokens, **NEEDED.get(name, {})))
    assert method.budget == tokens
    assert build_method(dict(type=name, **method.settings())) == method


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # the paper's two scopes, and the demonstration's (configs/methods/demo.py)
        (dict(type="reattention", budget_tokens=8192), dict(local_size=4096, max_spans=127)),
        (dict(type="reattention", budget_tokens=16416), dict(local_size=8192, max_spans=256)),
        (dict(type="reattention", budget_tokens=2048), dict(local_size=1024, max_spans=31)),
        (dict(type="reattention_plus", budget_tokens=8192), dict(local_size=1024, max_spans=223)),
        (dict(type="reattention_plus", budget_tokens=16416), dict(local_size=2048, max_spans=448)),
        # what no span fits into is local
        (
            dict(type="reattention", budget_tokens=1000, span_size=16, chunk_size=100),
            dict(local_size=504, max_spans=29, span_size=16, chunk_size=100),
        ),
        (dict(type="streaming_llm", budget_tokens=8192), dict(window_size=8160)),
        (dict(type="streaming_llm", budget_tokens=8192, sink_size=4), dict(window_size=8188)),
        (dict(type="lm_infinite", budget_tokens=512), dict(window_size=480, distance_limit=512)),
        (
            dict(type="lm_infinite", budget_tokens=512, distance_limit=1024),
            dict(window_size=480, distance_limit=1024),
        ),
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_follow(settings, expected):
    got = sized(settings)
    assert "budget_tokens" not in got
    assert {name: got[name] for name in expected} == expected
    assert build_method(settings) == build_method(got)
    assert build_method(settings).budget == settings["budget_tokens"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(type="streaming_llm", budget_tokens=0), "whole number of at least 1, found 0"),
        (dict(type="streaming_llm", budget_tokens=True), "whole number .*found True"),
        (dict(type="streaming_llm", budget_tokens=8e3), "whole number .*found 8000.0"),
        (
            dict(type="streaming_llm", budget_tokens=100),
            "leaves less than a chunk of 512 tokens beside sink_size 32",
        ),
        (
            dict(type="streaming_llm", budget_tokens=8192, window_size=8160),
            "give budget_tokens or window_size, which follows from it, not both",
        ),
        (
            dict(type="reattention", budget_tokens=8192, max_spans=3, local_size=4096),
            "budget_tokens or local_size, max_spans",
        ),
        (dict(type="reattention", budget_tokens=550), "no span of 32 tokens .* chunk_size 512"),
        (dict(type="reattention", budget_tokens=8192, span_size=0), "span_size must be .* found 0"),
        (
            dict(type="reattention", spans=3),
            "no setting spans.*allow_beyond_window, last_tokens, last_alone, budget_tokens",
        ),
        (dict(type="lm_infinite", budget_tokens=32), "leaves no window beside global_size 32"),
    ],
    ids=str,
)
def test_bad_budgets(settings, message):
    with pytest.raises(ConfigError, match=message):
        build_method(settings)


def test_a_models_own_settings_give_way_to_a_budget():
    own = dict(local_size=8192, max_spans=256, global_size=16)
    got = sized(dict(type="reattention", budget_tokens=8192), own)
    method = build_method(got)
    assert (method.budget, method.global_size, method.local_size) == (8192, 16, 4112)
    assert sized(dict(type="reattention"), own) == {"type": "reattention", **own}


@pytest.mark.parametrize(
    ("method", "in_prompt", "decoding"),
    [
        (dict(type="quest", budget_tokens=32, page_size=8, dense_layers=0), False, True),
        (dict(type="oracle_topk", budget_tokens=32), True, True),
        (dict(type="full"), False, False),
    ],
    ids=str,
)
def test_records_tell_what_was_attended_and_kept(tmp_path, method, in_prompt, decoding):
    """The first token is of the prompt's own logits: alone it takes no step behind the prompt."""
    path = str(save_checkpoint(tmp_path / "tiny", tiny_tokenizer()))
    runner = PromptRunner(path, method, dtype="float32")
    for asked in (1, 5):
        (output,) = runner.run([Sample("the dog and the fox " * 30)], asked)
        record = output.record
        read, new = record["n_tokens"], record["new_tokens"]
        assert read > 3 * 32
        assert new == asked
        selecting = in_prompt or (decoding and asked > 1)
        assert record["must_select"] == selecting
        assert bool(record["layer_steps_selected"]) == selecting
        if decoding:
            assert (24 < record["decode_view"] <= 32) if asked > 1 else not record["decode_view"]
        else:
            steps = [read + step for step in range(1, asked)]
            assert record["decode_view"] == (sum(steps) / len(steps) if steps else 0)
        assert record["keys_kept"] == read + new - 1
        assert record["cache_bytes"] >= 2 * 2 * 2 * 16 * 4 * record["keys_kept"]
