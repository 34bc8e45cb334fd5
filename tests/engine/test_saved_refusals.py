"""What of a saved session does not belong, is damaged or half made: said, and nothing is lost."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple

import pytest
import torch
from tiny_models import random_prompt, tiny_model

from reattention_eval import FullAttention, ReAttention, StreamingLLM, attach
from reattention_eval.engine import save_hooked
from reattention_eval.errors import ConfigError, DataError
from reattention_eval.parallel import Ranks

SETTINGS = dict(global_size=2, local_size=12, span_size=4, max_spans=4, top_k=3, chunk_size=6)
METHOD, FULL = ReAttention(**SETTINGS), FullAttention(chunk_size=6)


def test_what_does_not_fit_is_refused_and_the_session_stays(tmp_path):
    read = tmp_path / "read"
    prompt = random_prompt(40)
    with attach(tiny_model(), METHOD) as session:
        session.prefill(prompt)
        session.save(read)
    others = [
        (tiny_model(seed=1), METHOD, "another model"),
        (tiny_model(layers=3), METHOD, "another model"),
        (tiny_model(rope_theta=5e5), METHOD, "another model"),
        (tiny_model(dtype=torch.float32), METHOD, "float64"),
        (
            tiny_model(),
            StreamingLLM(sink_size=2, window_size=20, chunk_size=6),
            "reattention:.*top_k=3.*streaming_llm:.*window_size=20",
        ),
        (tiny_model(), ReAttention(**{**SETTINGS, "top_k": 2}), "top_k=3"),
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
    with attach(model, FULL) as session:
        session.prefill(random_prompt(20))
        session.save(read)
    for factor, fits in ((1 + 2e-7, True), (1.001, False)):
        other = tiny_model()
        rotary = other.model.rotary_emb
        rotary.inv_freq = rotary.original_inv_freq = rotary.inv_freq * factor
        with attach(other, FULL) as session:
            if fits:
                session.load(read)
                continue
            with pytest.raises(ConfigError, match="RoPE"):
                session.load(read)


def test_a_longer_prompt_before_makes_no_other_model(tmp_path):
    """Modules of dynamic NTK keep the frequencies of the longest prompt they have seen."""
    scaling = dict(rope_type="dynamic", factor=2.0)
    model = tiny_model(window=32, rope_scaling=scaling, dtype=torch.float32)
    with attach(model, FULL) as session:
        session.prefill(random_prompt(20))
        session.save(tmp_path / "read")
    model(random_prompt(90))
    with attach(model, FULL) as session:
        session.load(tmp_path / "read")


def test_what_is_damaged_is_refused(tmp_path):
    read, model = tmp_path / "read", tiny_model()
    with attach(model, METHOD) as session:
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
    with attach(tiny_model(), METHOD) as session:
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


def test_heads_spread_over_processes_refuse(tmp_path, monkeypatch):
    with attach(tiny_model(), METHOD) as session:
        session.prefill(random_prompt(20))
        two = Ranks(0, 2, torch.device("cpu"))
        monkeypatch.setattr(save_hooked, "ranks_of", lambda model: two)
        for call in (session.save, session.load):
            with pytest.raises(ConfigError, match="2 processes"):
                call(tmp_path / "read")
