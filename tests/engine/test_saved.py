"""What was read, on disk: the session goes on with the same bits, or says why it cannot."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
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
from reattention_eval.errors import ConfigError, DataError
from reattention_eval.methods import ViewMethod, method_of_text, method_settings, text_of_method
from reattention_eval.parallel import Ranks

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


def test_what_does_not_fit_is_refused_and_the_session_stays(tmp_path):
    read = tmp_path / "read"
    prompt = random_prompt(40)
    with attach(tiny_model(), METHODS[0]) as session:
        session.prefill(prompt)
        session.save(read)
    settings = dict(global_size=2, local_size=12, span_size=4, max_spans=4, top_k=3, chunk_size=6)
    others = [
        (tiny_model(seed=1), METHODS[0], "another model"),
        (tiny_model(layers=3), METHODS[0], "another model"),
        (tiny_model(rope_theta=5e5), METHODS[0], "another model"),
        (tiny_model(dtype=torch.float32), METHODS[0], "float64"),
        (tiny_model(), METHODS[1], "reattention:.*top_k=3.*streaming_llm:.*window_size=20"),
        (tiny_model(), ReAttention(**{**settings, "top_k": 2}), "top_k=3"),
    ]
    for model, method, reason in others:
        with attach(model, method) as session:
            logits = session.prefill(prompt)
            with pytest.raises(ConfigError, match=reason):
                session.load(read)
            assert torch.equal(session.prefill(prompt, reuse_prefix=True), logits)
            assert session.stats.reused_tokens


def test_the_model_is_the_same_where_processors_round_otherwise(tmp_path):
    """Frequencies a unit in the last place off, as another device computes them."""
    read, model = tmp_path / "read", tiny_model()
    with attach(model, METHODS[2]) as session:
        session.prefill(random_prompt(20))
        session.save(read)
    for factor, fits in ((1 + 2e-7, True), (1.001, False)):
        other = tiny_model()
        rotary = other.model.rotary_emb
        rotary.inv_freq = rotary.original_inv_freq = rotary.inv_freq * factor
        with attach(other, METHODS[2]) as session:
            if fits:
                session.load(read)
                continue
            with pytest.raises(ConfigError, match="RoPE"):
                session.load(read)


def test_a_longer_prompt_before_makes_no_other_model(tmp_path):
    """Modules of dynamic NTK keep the frequencies of the longest prompt they have seen."""
    scaling = dict(rope_type="dynamic", factor=2.0)
    model = tiny_model(window=32, rope_scaling=scaling, dtype=torch.float32)
    with attach(model, METHODS[2]) as session:
        session.prefill(random_prompt(20))
        session.save(tmp_path / "read")
    model(random_prompt(90))
    with attach(model, METHODS[2]) as session:
        session.load(tmp_path / "read")


def test_what_is_damaged_is_refused(tmp_path):
    read, model = tmp_path / "read", tiny_model()
    with attach(model, METHODS[0]) as session:
        with pytest.raises(DataError, match="no saved session"):
            session.load(tmp_path)
        session.prefill(random_prompt(40))
        session.save(read)
        shard = "layer-001-0000.safetensors"
        whole = {path.name: path.read_bytes() for path in read.iterdir()}
        header = json.loads(whole["session.json"])
        flipped = bytearray(whole[shard])
        flipped[-1] ^= 1
        damages = [
            (shard, bytes(flipped), "is damaged"),
            (shard, whole[shard][:-1], "has .* bytes"),
            (shard, None, "is missing"),
            ("prompt.safetensors", b"", "has 0 bytes"),
            ("session.json", b"{", "cannot be read"),
            ("session.json", b"[]", "cannot be read"),
            ("session.json", json.dumps({**header, "tokens": 39}).encode(), "was changed"),
            ("session.json", json.dumps({**header, "format": 0}).encode(), "format 0"),
        ]
        for name, data, reason in damages:
            (read / name).unlink()
            if data is not None:
                (read / name).write_bytes(data)
            with pytest.raises(DataError, match=reason):
                session.load(read)
            (read / name).write_bytes(whole[name])
        session.load(read)
        (read / shard).write_bytes(bytes(flipped))
        with pytest.raises(DataError):
            session.load(read)
        with pytest.raises(ConfigError, match="Call prefill first"):  # nothing half-read is used
            session.generate()


def test_nothing_half_made_is_left(tmp_path, monkeypatch):
    read = tmp_path / "read"
    with attach(tiny_model(), METHODS[0]) as session:
        with pytest.raises(ConfigError, match="Call prefill first"):
            session.save(read)
        session.prefill(random_prompt(20))
        session.save(read)
        kept = (read / "session.json").read_bytes()
        session.prefill(random_prompt(30))

        def full(*_):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr("pathlib.Path.write_bytes", full)
            with pytest.raises(DataError, match="No space left"):
                session.save(read)
        usage = namedtuple("usage", "total used free")
        with monkeypatch.context() as patched:
            patched.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 1000))
            with pytest.raises(DataError, match="GiB left"):
                session.save(read)
        assert [path.name for path in tmp_path.iterdir()] == ["read"]
        assert (read / "session.json").read_bytes() == kept
        (tmp_path / "read.partial").mkdir()  # left by a process that was killed
        (tmp_path / "read.partial" / "layer-000-0000.safetensors").write_bytes(b"x")
        session.save(read)
        assert [path.name for path in tmp_path.iterdir()] == ["read"]
        assert session.load(read) is not None
        assert session.lengths == [30]
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "diary").write_text("dear")
        for other in (tmp_path / "mine", tmp_path / "mine" / "diary"):
            with pytest.raises(ConfigError, match="give a new folder"):
                session.save(other)
        session.prefill(random_prompt(20, rows=2))
        with pytest.raises(ConfigError, match="2 rows"):
            session.save(read)


def test_native_methods_refuse(tmp_path):
    with attach(tiny_model(), "native_full") as session:
        session.prefill(random_prompt(20))
        for call in (session.save, session.load):
            with pytest.raises(ConfigError, match="native_full"):
                call(tmp_path / "read")


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


def test_heads_spread_over_processes_refuse(tmp_path, monkeypatch):
    with attach(tiny_model(), METHODS[0]) as session:
        session.prefill(random_prompt(20))
        two = Ranks(0, 2, torch.device("cpu"))
        monkeypatch.setattr(save_hooked, "ranks_of", lambda model: two)
        for call in (session.save, session.load):
            with pytest.raises(ConfigError, match="2 processes"):
                call(tmp_path / "read")


@pytest.mark.parametrize(
    "text", ["full", "reattention:local_size=2048,score=qkv_l1", "streaming_llm:chunk_size=7"]
)
def test_a_method_in_a_word(text):
    assert text_of_method(method_settings(method_of_text(text))).count(",") == text.count(",")
    assert method_of_text(text_of_method(method_settings(method_of_text(text)))) == (
        method_of_text(text)
    )
