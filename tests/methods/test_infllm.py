"""InfLLM against loops over the paper's sentences."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from naive_distances import NaiveDistances
from naive_infllm import NaiveBlocks, NaiveInfLLM
from test_distance_rules import ExactRotary, close
from tiny_models import random_prompt, tiny_model

from reattention_eval import attach
from reattention_eval.attention.banded_view import attend_banded
from reattention_eval.attention.rope import ViewRope, rotate_half_split
from reattention_eval.cache import LayerCache, RowCache
from reattention_eval.cli.ask import Wishes, ask
from reattention_eval.errors import ConfigError, SelectionError
from reattention_eval.methods import InfLLM, build_method, index_bytes, method_of_text

# first, window, block, representatives, blocks: in step, out of step, no first tokens, more first
# tokens than the window, blocks larger than a chunk, blocks of one key
RULES = [(2, 8, 4, 2, 2), (3, 7, 3, 1, 2), (0, 5, 4, 3, 1), (9, 6, 2, 1, 3), (1, 6, 9, 4, 1)]
RULES += [(2, 5, 1, 1, 4)]
RATIOS = [(2, 2), (6, 2), (4, 1), (7, 1)]
CHUNKS = [5, 5, 3, 5, 1, 1, 5, 2, 4, 1, 5]


def made(rule, chunk_size=5):
    first, local, size, representatives, top_k = rule
    return InfLLM(first, local, size, representatives, top_k, chunk_size=chunk_size)


def states_of(cache):
    return [kept.state for kept in cache._states._kept.values()]


class Row:
    """One layer of one row, the package's and the loops', fed chunk by chunk."""

    def __init__(self, rule, heads, kv_heads, seed=0):
        self.method, self.naive, self.cache = made(rule), NaiveBlocks(*rule), LayerCache()
        self.heads, self.kv_heads = heads, kv_heads
        self.generator = torch.Generator().manual_seed(seed)
        self.cache.reserve(1, 8)
        self.rotary = ExactRotary(8)
        self.rope = ViewRope(self.rotary, rotate_half_split)

    def read(self, t):
        """A chunk through both; what the package answers."""
        query, key, value = (
            torch.randn(h, t, 8, dtype=torch.float64, generator=self.generator)
            for h in (self.heads, self.kv_heads, self.kv_heads)
        )
        row = self.cache.append(0, key, value)
        self.method.read_queries(row, query)
        expected = self.naive.attend(
            *(x.transpose(0, 1) for x in (query, key, value)), self.rotary.turn, 0.7
        )
        if not self.method.selects(row.length):
            return
        view = self.method.view(row, query)
        view.check("infllm", row, query)
        assert view.keys == self.naive.seen <= self.method.budget
        found = attend_banded(self.rope, view, row, query, 0.7)
        for (s, h), answer in expected.items():
            torch.testing.assert_close(found[h, s], answer, rtol=0, atol=1e-12)

    def go_back(self, length):
        self.cache.rewind([length])
        for part in (self.naive.keys, self.naive.values, self.naive.queries):
            del part[length:]
        self.naive.kept = {}


CASES = [(rule, RATIOS[i % len(RATIOS)]) for i, rule in enumerate(RULES)]
REST = [(rule, ratio) for rule in RULES for ratio in RATIOS if (rule, ratio) not in CASES]


@pytest.mark.parametrize(
    ("rule", "ratio"), [*CASES, *(pytest.param(*one, marks=pytest.mark.slow) for one in REST)],
    ids=str,
)  # fmt: skip
def test_random_tensors_against_loops(rule, ratio):
    """Prompts and decode steps, chunks of every length, taken back and read on differently."""
    heads, kv_heads = ratio
    both = Row(rule, heads, kv_heads)
    for t in CHUNKS:
        both.read(t)
    both.go_back(sum(CHUNKS[:3]))
    for t in (5, 1, 4):
        both.read(t)


def test_choosing_is_tested():
    """The queries of the chunk decide, and the representatives do."""
    chosen, both = set(), Row(RULES[0], 2, 2, seed=3)
    for t in CHUNKS:
        both.read(t)
        chosen.add(tuple(both.naive.chosen))
    assert len(chosen) > 5
    represented = [both.naive.represented_by(b, kv) for b in (0, 1) for kv in (0, 1)]
    assert len({tuple(m % 4 for m in best) for best in represented}) > 1


def test_queries_that_were_not_seen():
    rule = RULES[0]
    query, key = torch.randn(4, 5, 8), torch.randn(2, 30, 8)
    with pytest.raises(SelectionError, match="tokens 0 to 25 were not seen"):
        made(rule).read_queries(RowCache(key, key), query)
    with pytest.raises(SelectionError, match="tokens 0 to 25 were not seen"):
        made(rule).view(RowCache(key, key), query)
    both = Row(rule, 2, 2)
    for t in CHUNKS:
        both.read(t)
    both.go_back(12)  # in the middle of a chunk
    with pytest.raises(SelectionError, match="tokens 10 to 12 were not seen"):
        both.read(1)


@pytest.mark.parametrize(
    ("rule", "heads", "kv_heads"), [(RULES[0], 6, 2), (RULES[1], 7, 1)], ids=str
)
def test_models_against_loops(rule, heads, kv_heads):
    """A prompt and two decoded tokens; the counters say what was read, and an answer scored on the
    way leaves no trace."""
    model = tiny_model(heads=heads, kv_heads=kv_heads)
    prompt, size = random_prompt(33), 5
    naive = NaiveInfLLM(model, size, *rule)
    wanted, seen, ends = [], [], []
    parts = [prompt[0, i : i + size].tolist() for i in range(0, 33, size)] + [[5], [71]]
    for part in parts:
        wanted.append(naive.chunk(part))
        seen += [layer.seen for layer in naive.layers]
        ends.append(len(naive.layers[0].keys))
    method = made(rule, size)
    with attach(model, method) as session:
        close(session.prefill(prompt)[0], wanted[-3])
        counted = session.stats
        scored = session.answer_nll([9, 17, 4])
        assert session.answer_nll([9, 17, 4]) == scored
        for token, expected in zip((5, 71), wanted[-2:], strict=True):
            close(session.decode(torch.tensor([[token]]))[0], expected)
        assert counted.layer_steps_selected == 2 * sum(method.selects(n) for n in ends[:-2])
        assert counted.mean_view == pytest.approx(sum(seen[:-4]) / len(seen[:-4]))
        after = session.stats
        held = sum(state.nbytes for layer in session._hook.layers for state in states_of(layer))
        assert 0 < held < after.cache_bytes


def test_rows_do_not_know_each_other():
    """Rows of a batch, and a prompt behind another one, read whole or from a shared beginning."""
    model, method, rule = tiny_model(), made(RULES[0]), RULES[0]
    lengths, prompts = (28, 17, 1), random_prompt(28, rows=3)
    mask = torch.tensor([[0] * (28 - n) + [1] * n for n in lengths])
    with attach(model, method) as session:
        found = session.prefill(prompts, attention_mask=mask)
        after = session.decode(torch.tensor([[5], [6], [7]]))
        for row, n in enumerate(lengths):
            naive = NaiveInfLLM(model, 5, *rule)
            close(found[row], naive.prefill(prompts[row, 28 - n :].tolist()))
            close(after[row], naive.chunk([5 + row]))
        alone = session.prefill(prompts[:1])
        assert torch.equal(session.prefill(prompts[:1]), alone)
        other = torch.cat((prompts[:1, :21], prompts[1:2, 21:]), 1)
        session.generate(other, 3)
        again = session.prefill(prompts[:1], reuse_prefix=True)
        assert session.stats.reused_tokens == 40  # by generate and by the last prefill
        assert torch.equal(again, alone)
    with attach(model, InfLLM(1, 6, 5, 2, 1, chunk_size=5)) as session:
        assert not torch.equal(session.prefill(prompts[:1]), alone)
    with attach(model, method) as session:
        assert torch.equal(session.prefill(prompts[:1]), alone)


def test_forwards_of_many_chunks_and_transformers_generate():
    model, prompt = tiny_model(), random_prompt(43)
    method = made(RULES[1])
    with attach(model, method) as session:
        expected = session.generate(prompt, 6)[0].tolist()
        new = model.generate(prompt, max_new_tokens=6, do_sample=False)[0, 43:].tolist()
        assert new == expected
    naive = NaiveInfLLM(model, 5, *RULES[1])
    logits, tokens = naive.prefill(prompt[0].tolist()), []
    while len(tokens) < len(expected):
        tokens.append(int(logits.argmax()))
        logits = naive.chunk([tokens[-1]])
    assert expected == tokens


def test_full_attention_inside_the_window_and_all_blocks():
    model, prompt = tiny_model(), random_prompt(40)
    with attach(model, made((2, 40, 8, 2, 1), 7)) as session:
        close(session.prefill(prompt)[0], model(prompt).logits[0, -1])
        assert session.stats.layer_steps_selected == 0
    naive = NaiveDistances(model, lambda i, j: min(i - j, 9))
    for token in prompt[0].tolist():
        expected = naive.chunk([token])
    for size in (9, 4):
        with attach(model, made((2, 9, 4, 2, 8), size)) as session:
            close(session.prefill(prompt)[0], expected)
            assert session.stats.layer_steps_selected > 0


def test_a_session_is_not_kept_on_disk(tmp_path):
    with attach(tiny_model(), made(RULES[0])) as session:
        session.prefill(random_prompt(20))
        with pytest.raises(ConfigError, match=r"infllm keeps beside the keys .* not kept on disk"):
            session.save(tmp_path / "kept")
    text = tmp_path / "text.txt"
    text.write_text("a b c")
    wishes = Wishes(
        text, None, None, "infllm", 8, tmp_path / "kept", None, "auto", "cpu", "auto", "utf-8"
    )  # fmt: skip
    with pytest.raises(ConfigError, match="is not kept on disk"):  # before a model is loaded
        ask(wishes)
    assert not (tmp_path / "kept").exists()


def test_papers_settings_and_budgets():
    paper = [method_of_text("infllm:top_k=127")]
    paper += [method_of_text("infllm:global_size=128,block_size=128,top_k=31")]
    assert [m.budget - m.chunk_size for m in paper] == [8192 + 31, 8192 + 127]
    for tokens in (8192, 16416):
        method = InfLLM(budget_tokens=tokens)
        assert method.budget == tokens
        attended = replace(method, budget_tokens=None, top_k=method.blocks).budget
        assert tokens - 32 < attended <= tokens
    assert InfLLM() == InfLLM(budget_tokens=8192)
    assert InfLLM().blocks == 110
    assert InfLLM().reach(8192) is None
    assert 0 < index_bytes(InfLLM(), 131072, 128) < 131072 * 128 * 2 * 2


def test_refusals():
    with pytest.raises(ConfigError, match=r"local_size 4096 .* below the model's trained .* 4096"):
        InfLLM().check(4096)
    InfLLM().check(8192)
    for settings, message in [
        (dict(global_size=-1), "global_size must be at least 0, found -1"),
        (dict(block_size=0), "block_size must be at least 1"),
        (dict(representatives=0), "representatives must be at least 1"),
        (dict(representatives=33), "a block of 32 tokens has no 33 representatives; lower"),
        (dict(top_k=0), "top_k must be at least 1"),
        (dict(top_k=True), "top_k must be a whole number, found True"),
        (dict(top_k=3, budget_tokens=8192), "give top_k or budget_tokens, not both; found 3"),
        (dict(budget_tokens=4702), "4702 tokens hold no block .* at least 4703, or lower local"),
        (dict(budget_tokens=8192.0), "budget_tokens must be a whole number"),
        (dict(local_size=511), "chunk_size 512 must fit into local_size 511"),
    ]:
        with pytest.raises(ConfigError, match=message):
            build_method(dict(type="infllm", **settings))
