"""Sessions on the model's own attention: as the hook's, and as loops where keys are dropped."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from naive_views import NaiveViews, whole
from tiny_models import random_prompt, tiny_model

from reattention_eval import FullAttention, ReAttention, attach
from reattention_eval.engine.scoring import token_nll
from reattention_eval.errors import ConfigError, SelectionError
from reattention_eval.methods import NativeFull, NativeMethod

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "examples" / "example_methods"))
from example_methods import KeepEnds

SINK, RECENT = 3, 9
METHOD = KeepEnds(sink=SINK, recent=RECENT)


def model_of(family="llama", **settings):
    """In float64; a fully masked row of padding is no number in float64 eager attention."""
    model = tiny_model(family, **settings)
    model.set_attn_implementation("sdpa")
    return model


def answers(model, method):
    """Every way of a session, one after another: tokens and logits."""
    prompt, rows = random_prompt(41), random_prompt(30, rows=3)
    mask = torch.ones_like(rows)
    mask[0, :13], mask[2, :29] = 0, 0
    with attach(model, method) as session:
        tokens = [session.generate(prompt, 9), session.generate(None, 4)]
        tokens.append(session.generate(rows, 6, attention_mask=mask))
        ends = [tokens[-1][row, 1 + row].item() for row in range(3)]
        tokens.append(session.generate(rows, 8, attention_mask=mask, stop_token_ids=ends))
        logits = [session.extend(random_prompt(7, rows=3, seed=5))]  # behind rows of unequal ends
        turns = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 1]])
        logits.append(session.extend(random_prompt(4, rows=3, seed=6), attention_mask=turns))
        logits.append(session.decode(torch.tensor([[4], [5], [6]])))
        lengths = [session.lengths]
        logits.append(session.prefill(prompt))
        nll = session.answer_nll([5, 6, 7])
        lengths.append(session.lengths)
        logits.append(session.decode(torch.tensor([[9]])))
        session.reset()
        lengths.append(session.lengths)
    return tokens, logits, lengths, nll


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
def test_native_full_is_what_the_hook_computes(family):
    model = model_of(family, heads=6, kv_heads=2)
    hooked = answers(model, FullAttention(chunk_size=7))
    native = answers(model, "native_full")
    for ours, own in zip(hooked[0], native[0], strict=True):
        assert torch.equal(ours, own)
    for ours, own in zip(hooked[1], native[1], strict=True):
        torch.testing.assert_close(ours, own, rtol=0, atol=1e-10)
    assert hooked[2] == native[2]
    assert hooked[3] == pytest.approx(native[3], abs=1e-10)


def test_likelihoods_of_a_text_are_the_hooks():
    model, text, found = model_of(), random_prompt(40), []
    for method in (FullAttention(chunk_size=7), NativeFull()):
        with attach(model, method) as session:
            found.append(token_nll(session, text))
    torch.testing.assert_close(*found, rtol=0, atol=1e-10)


def test_native_full_is_the_model():
    model, prompt = model_of(window=32), random_prompt(61)  # as it is, beyond its window too
    expected = model.generate(prompt, max_new_tokens=8, do_sample=False)
    with attach(model, NativeFull()) as session:
        assert torch.equal(session.generate(prompt, 8), expected[:, 61:])
        assert torch.equal(model.generate(prompt, max_new_tokens=8, do_sample=False), expected)
        assert session.stats.layer_steps_selected == 0
        assert session.stats.mean_view == (61 + sum(range(62, 69))) / 8


def seen_ends(keys, kv, t):
    """A prompt is read whole; then each token attends to what the step before kept, and itself."""
    n = len(keys)
    if t > 1 or n - 1 <= SINK + RECENT:
        return whole(n, t)
    positions = [*range(SINK), *range(n - 1 - RECENT, n)]
    return positions, positions, [n - 1]


@pytest.mark.parametrize("tokens", [1, 11, 12, 13, 40])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (6, 2)], ids=str)
def test_dropped_keys_are_gone_and_positions_stay(tokens, heads, kv_heads):
    model, prompt = model_of(heads=heads, kv_heads=kv_heads), random_prompt(tokens)
    naive = NaiveViews(model, seen_ends, tokens)
    with attach(model, METHOD) as session:
        found = session.prefill(prompt)[0]
        torch.testing.assert_close(found, naive.prefill(prompt[0].tolist()), rtol=0, atol=1e-6)
        for token in (5, 71):
            found = session.decode(torch.tensor([[token]]))[0]
            torch.testing.assert_close(found, naive.chunk([token]), rtol=0, atol=1e-6)
        before = session.stats
        session.answer_nll([4, 5])
        found = session.decode(torch.tensor([[33]]))[0]  # the cache is what it was
        torch.testing.assert_close(found, naive.chunk([33]), rtol=0, atol=1e-6)
        turn = [7, 8, 9]
        found = session.extend(torch.tensor([turn]))[0]
        for token in turn:
            expected = naive.chunk([token])
        if tokens > 12:  # else the turn is read at once, before anything is dropped
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert session.lengths == [tokens + 6]
        session.check_selected()
    attended = [tokens] + [min(n, SINK + RECENT + 1) for n in (tokens + 1, tokens + 2)]
    assert before.mean_view == sum(attended) / 3
    part = [n > SINK + RECENT + 1 for n in (tokens + 1, tokens + 2)]
    assert before.layer_steps_selected == 2 * sum(part)
    assert before.cache_bytes == 2 * 2 * kv_heads * min(tokens + 2, 12) * 16 * 8


def test_rows_of_one_length_are_a_batch_where_keys_are_dropped():
    model, prompts = model_of(), random_prompt(30, rows=2)
    with attach(model, METHOD) as session:
        both = session.generate(prompts, 6)
        alone = [session.generate(prompts[row : row + 1], 6)[0] for row in range(2)]
        for row, own in enumerate(alone):  # one of them ends with the model's end token
            assert torch.equal(both[row, : len(own)], own)
        end = int(both[0, 1])
        stopped = session.generate(prompts, 6, stop_token_ids=[end])
        assert end not in both[1]
        assert torch.equal(stopped[1], both[1, : stopped.shape[1]])
        with pytest.raises(ConfigError, match="a row that ended before the others"):
            session.generate(None, 2)
        mask = torch.ones_like(prompts)
        mask[0, :4] = 0
        session.prefill(prompts, attention_mask=mask)  # read whole, as full attention
        with pytest.raises(ConfigError, match=r"keep_ends drops keys.*batch_size=1"):
            session.decode(torch.tensor([[5], [6]]))


@dataclass(frozen=True)
class Longer(NativeMethod):
    name = "longer"
    source = "this test"
    factor: int = 2

    @property
    def budget(self):
        return None

    def reach(self, window):
        return self.factor * window

    def configure(self, config):
        config.rope_theta = 5e5
        rope = getattr(config, "rope_parameters", None)
        if rope:
            config.rope_parameters = {**rope, "rope_theta": 5e5}
        return config

    @contextmanager
    def applied(self, model):
        model.under = self.name
        try:
            yield
        finally:
            del model.under


def test_a_configuration_comes_before_loading_and_a_block_leaves_no_trace():
    with (
        pytest.raises(ConfigError, match=r"longer changes .*\(rope_.*load\(path, configure="),
        attach(model_of(), Longer()),
    ):
        pass
    model = type(model_of())(Longer().configure(model_of().config)).double().eval()
    with attach(model, Longer()) as session:
        assert model.under == "longer"
        with (
            pytest.raises(ConfigError, match="already has a method attached"),
            attach(model, ReAttention(2, 8, 4, 2, 2, chunk_size=8)),
        ):
            pass
        session.prefill(random_prompt(20))
    assert not hasattr(model, "under")
    with pytest.raises(ConfigError, match="closed"):
        session.prefill(random_prompt(20))
    with attach(model, "full"):
        pass


@dataclass(frozen=True)
class Idle(KeepEnds):
    name = "idle"

    def _drop(self, module, args, kwargs, output):
        pass


def test_a_method_that_keeps_all_it_should_drop_is_an_error():
    with (
        pytest.raises(SelectionError, match="is not idle"),
        attach(model_of(), Idle(sink=SINK, recent=RECENT)) as session,
    ):
        session.prefill(random_prompt(20))


def test_windows_are_counted_in_tokens():
    """Of rows that have padding behind their first tokens they cannot be."""
    model = tiny_model("mistral", sliding_window=16)
    model.set_attn_implementation("sdpa")  # transformers' eager one makes NaN of padding
    model.generation_config.eos_token_id = None
    prompts, turns, shown = random_prompt(40, 2), random_prompt(12, 2, seed=5), torch.ones(2, 12)
    shown[1, :9] = 0
    with attach(model, "native_full") as session:
        session.prefill(prompts)
        with pytest.raises(ConfigError, match="turns of one length, or one row at a time"):
            session.extend(turns, shown)
        end = session.generate(prompts, 5)[0, 1]
        session.generate(prompts, 5, stop_token_ids=[int(end)])
        with pytest.raises(ConfigError, match="turns of one length"):
            session.generate()
        session.prefill(turns, shown)
        together = session.extend(prompts)
        for row, first in enumerate((0, 9)):
            session.prefill(turns[row : row + 1, first:])
            alone = session.extend(prompts[row : row + 1])
            torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-11)
