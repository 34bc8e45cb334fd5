"""What was read, on disk: the session goes on with the same bits, or says why it cannot."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from repeats import repeat_without_gpu
from safetensors import safe_open
from tiny_models import longrope, random_prompt, tiny_model

from reattention_eval import FullAttention, ReAttention, StreamingLLM, attach
from reattention_eval.attention import View
from reattention_eval.cache import RowState
from reattention_eval.engine import save_hooked
from reattention_eval.errors import ConfigError
from reattention_eval.methods import ViewMethod

BLOCK = 4


class BlockMaxima(RowState):
    """Per block of 4 keys their largest entries."""

    def __init__(self):
        self.maxima = []

    def append(self, keys, start):
        del self.maxima[start // BLOCK :]
        for first in range(start // BLOCK * BLOCK, keys.shape[1], BLOCK):
            self.maxima.append(keys[:, first : first + BLOCK].amax(1))

    def rewind(self, length):
        del self.maxima[length // BLOCK :]

    nbytes = 0


@dataclass(frozen=True)
class BestBlock(ViewMethod):
    """The last 12 tokens behind the block whose maxima agree best with the last query."""

    name = "best_block"
    source = "this test"

    @property
    def budget(self):
        return 16

    def view(self, row, query):
        maxima = torch.stack(row.state(BlockMaxima).maxima, 1)  # [Hkv, blocks, D]
        blocks = (row.length - 12) // BLOCK
        shared = query[:, -1].unflatten(0, (row.key.shape[0], -1)).sum(1)
        best = int((maxima[:, :blocks] * shared[:, None]).sum((0, 2)).argmax()) * BLOCK
        local = torch.arange(row.length - 12, row.length)
        return View(torch.cat((torch.arange(best, best + BLOCK), local)))


METHODS = [
    ReAttention(global_size=2, local_size=12, span_size=4, max_spans=4, top_k=3, chunk_size=6),
    StreamingLLM(sink_size=2, window_size=20, chunk_size=6),
    FullAttention(chunk_size=6),
    BestBlock(chunk_size=6),
]
SHAPES = {
    "llama": dict(heads=4, kv_heads=2),
    "qwen2": dict(heads=7, kv_heads=1),
    "qwen3": dict(heads=3, kv_heads=3, head_dim=32),
}
by_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def ways(session, prompt):
    """All that a session does behind what it has read, each from the same state."""
    found = [session.answer_nll([5, 9, 7]), session.lengths]
    found.append(session.generate(max_new_tokens=5))
    found.append(session.extend(random_prompt(9, seed=4)))
    found.append(session.decode(torch.tensor([[11]])))
    longer = torch.cat((prompt[:, :40], random_prompt(8, seed=5)), 1)
    session.reset_stats()
    found.append(session.prefill(longer, reuse_prefix=True))
    found.append(session.stats.reused_tokens)
    return found


def same(one, other):
    return all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
        for x, y in zip(one, other, strict=True)
    )


@by_method
@pytest.mark.parametrize("family", SHAPES)
def test_the_session_goes_on_with_the_same_bits(tmp_path, monkeypatch, method, family):
    dtype = torch.float32 if family == "qwen2" else torch.bfloat16

    def make():
        return tiny_model(family, dtype=dtype, **SHAPES[family])

    monkeypatch.setattr(save_hooked, "SHARD_BYTES", 5000)  # several shards a layer
    prompt = random_prompt(61)
    with attach(make(), method) as session:
        logits = session.prefill(prompt)
        session.save(tmp_path / "read")
        assert torch.equal(session.generate(prompt, 3), session.generate(prompt, 3))
        session.prefill(prompt)
        expected = ways(session, prompt)
    with attach(make(), method) as session:
        assert torch.equal(session.load(tmp_path / "read", max_new_tokens=7), logits)
        assert session.stats.prefill_tokens == 0
        assert same(ways(session, prompt), expected)
        session.prefill(random_prompt(30, rows=3))
        session.load(tmp_path / "read")  # whatever was there before
        assert same(ways(session, prompt), expected)
    assert not list(tmp_path.glob("*.*"))
    files = sorted((tmp_path / "read").glob("layer-001-*.safetensors"))
    assert len(files) > 1
    with safe_open(files[0], "pt") as first:
        assert first.get_slice("key").get_shape()[0] == SHAPES[family]["kv_heads"]


@pytest.mark.parametrize("tokens", [1, 6, 7])
def test_short_prompts_and_what_was_generated(tmp_path, tokens):
    """The answer is in the cache too, its last token included; the prompt is what can be reused."""
    model = tiny_model()
    model.generation_config.eos_token_id = None
    with attach(model, METHODS[0]) as session:
        whole = session.generate(random_prompt(tokens), 9)
        session.generate(random_prompt(tokens), 4)
        session.save(tmp_path / "a" / "read")
        session.prefill(random_prompt(50, seed=8))
        session.load(tmp_path / "a" / "read")
        assert session.lengths == [tokens + 4]
        assert torch.equal(session.generate(max_new_tokens=5), whole[:, 4:])


def test_rope_that_depends_on_the_length(tmp_path):
    """The prompt's length decides the frequencies, and is kept."""
    model = tiny_model("llama", window=40, rope_scaling=longrope(20), dtype=torch.float32)
    prompt = random_prompt(33)
    with attach(model, FullAttention(chunk_size=6)) as session:
        session.prefill(prompt)
        expected = session.decode(torch.tensor([[7]]))
        session.prefill(prompt, progress=lambda read: read >= 12)  # 12 are in the short regime
        session.save(tmp_path / "read")
        session.reset()
        session.load(tmp_path / "read")
        session.prefill(prompt, reuse_prefix=True)
        assert session.stats.reused_tokens == 12
        assert torch.equal(session.decode(torch.tensor([[7]])), expected)


@by_method
def test_reading_ends_where_it_is_told_to_and_goes_on(tmp_path, method):
    prompt, told = random_prompt(47), []

    def progress(read):
        told.append(read)
        return read == 18

    with attach(tiny_model(), method) as session:
        expected = session.prefill(prompt)
        part = session.prefill(prompt[:, :18])
        session.reset_stats()
        assert torch.equal(session.prefill(prompt, progress=progress), part)
        assert session.lengths == [18]
        assert session.stats.prefill_tokens == 18
        assert told == [6, 12, 18]
        session.save(tmp_path / "part")
        again = session.generate(max_new_tokens=3)
        session.load(tmp_path / "part")
        assert torch.equal(session.generate(max_new_tokens=3), again)
        assert torch.equal(session.prefill(prompt, reuse_prefix=True), expected)
        assert session.stats.reused_tokens == 18
        with pytest.raises(ConfigError, match="single prompt"):
            session.prefill(random_prompt(9, rows=2), progress=progress)


def test_repeated_steps_behind_what_was_loaded(tmp_path, monkeypatch):
    """Decode steps as graphs, which read the storage that was there when they were captured."""
    rooms = repeat_without_gpu(monkeypatch)
    method = ReAttention(4, 64, 8, 3, 9, chunk_size=64)
    model = tiny_model()
    model.generation_config.eos_token_id = None
    with attach(model, method) as session:
        session.prefill(random_prompt(150), max_new_tokens=30)
        session.save(tmp_path / "read")
        expected = session.generate(max_new_tokens=20)
        session.load(tmp_path / "read", max_new_tokens=30)
        assert torch.equal(session.generate(max_new_tokens=20), expected)
        session.prefill(random_prompt(300, seed=3))
        session.load(tmp_path / "read")
        assert torch.equal(session.generate(max_new_tokens=20), expected)
    assert rooms
