"""Generated configurations, descriptions of checkpoints, data files: an answer or our own error."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from reattention_eval.benchmarks import find_benchmark
from reattention_eval.checkpoints import check_access
from reattention_eval.checkpoints.folder import check_folder
from reattention_eval.cli import app
from reattention_eval.datasets.prepare.record import Record
from reattention_eval.datasets.prepare.verify import count_samples
from reattention_eval.efficiency import read_shape
from reattention_eval.errors import ReAttentionError
from reattention_eval.harness.preflight import find_problems

SECONDS = 3.0  # of a processor; a second on a fast one
QUIET = [
    HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture,
]  # fmt: skip
ODD = st.one_of(
    st.sampled_from(
        [None, True, "", "x", "\ud800", "../..", "/", "\0", 0, -1, 10**30, 2**63, 0.5, math.nan,
         math.inf, [], {}, [[]], [{}], [1, "2", None], "float999", {"rope_type": "none"}]
    ),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
)  # fmt: skip
RAW = st.sampled_from(
    [b"", b"{", b"[]", b"null", b"3", b'"x"', b"[" * 100_000, b"\xff\xfe", b"9" * 5000, b"\x00",
     b'{"a": ' * 500 + b"1" + b"}" * 500, b'{"weight_map": []}', b'{"weight_map": {}}',
     b'{"weight_map": {"a": 1}}', b'{"weight_map": {"a": "../b"}}', b'["weight_map"]']
)  # fmt: skip
CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 97, "max_position_embeddings": 512,
    "tie_word_embeddings": False, "rope_theta": 10000.0,
}  # fmt: skip


@contextlib.contextmanager
def answered() -> Iterator[None]:
    """In a second, with an answer or an error of ours."""
    begun = time.process_time()
    with contextlib.suppress(ReAttentionError):
        yield
    assert time.process_time() - begun < SECONDS


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Path) -> Path:
    return shutil.copytree(checkpoint, tmp_path / "model")


def check_checkpoint(folder: Path, data: st.DataObject) -> None:
    name = data.draw(
        st.sampled_from(["config.json", "model.safetensors.index.json", "model.safetensors"])
    )
    kept = folder / name
    before = kept.read_bytes() if kept.exists() else None
    try:
        if name == "config.json" and data.draw(st.booleans()):
            key = data.draw(st.sampled_from(sorted(CONFIG)))
            kept.write_text(json.dumps({**CONFIG, key: data.draw(ODD)}))
        elif name == "model.safetensors":
            header = data.draw(RAW)
            size = data.draw(st.sampled_from([len(header), 0, 3, 2**63]))
            kept.write_bytes(size.to_bytes(8, "little") + header)
        else:
            kept.write_bytes(data.draw(RAW))
        for ask in (check_folder, check_access, lambda path: read_shape(str(path))):
            with answered():
                ask(folder)
        words = ["plan", "--model", str(folder), "--length", "1000", "--gpu-memory", "80"]
        result = CliRunner().invoke(app, words)
        assert result.exception is None or isinstance(result.exception, SystemExit), result
    finally:
        kept.unlink()
        if before is not None:
            kept.write_bytes(before)


def check_entry(folder: Path, data: st.DataObject) -> None:
    """A model's entry and a dataset of a configuration, anything in one place."""
    facts = {"benchmark": "needle", "length": 2000, "depths": [10.0], "repeats": 1,
             "style": "magic_number"}  # fmt: skip
    inferencer = {"chat_template": False, "dataset_facts": facts, "max_out_len": 8}
    model: dict[str, Any] = {
        "type": "reattention_eval.harness.LongContextLM", "abbr": "m", "path": str(folder),
        "tensor_parallel": 1, "chat_template": False,
        "method": {"type": "reattention", "local_size": 64, "span_size": 4, "top_k": 2},
    }  # fmt: skip
    dataset: dict[str, Any] = {"abbr": "d", "infer_cfg": {"inferencer": inferencer}}
    place = data.draw(st.sampled_from([model, model["method"], dataset, inferencer, facts]))
    if place is dataset:
        place = dataset["infer_cfg"]
    key = data.draw(st.sampled_from(sorted(k for k in place if k != "type")))
    place[key] = data.draw(ODD)
    if data.draw(st.integers(0, 9)) == 0:
        del place[key]
    with answered():
        for problem in find_problems([(model, [dataset])]):
            assert isinstance(problem, str) and problem


def check_data(folder: Path, data: st.DataObject) -> None:
    """A benchmark's file and the record of what was prepared."""
    row = {"input": "q", "context": "c", "answers": ["a"], "length": 1, "dataset": "qasper",
           "language": "en", "all_classes": None, "_id": "1"}  # fmt: skip
    path = folder / "longbench" / "qasper.jsonl"
    path.parent.mkdir(exist_ok=True)
    if data.draw(st.booleans()):
        row[data.draw(st.sampled_from(sorted(row)))] = data.draw(ODD)
        path.write_text(json.dumps(row) + "\n")
    else:
        path.write_bytes(data.draw(RAW))
    with answered():
        count_samples(path)
    with answered():
        find_benchmark("longbench").rows("qasper")
    entry = {"sha256": "0", "bytes": 1, "mtime_ns": 1, "samples": 1, "source": "s"}
    entry[data.draw(st.sampled_from(sorted(entry)))] = data.draw(ODD)
    text = json.dumps({"files": {"longbench/qasper.jsonl": entry}}).encode()
    (folder / "prepared.json").write_bytes(data.draw(st.one_of(st.just(text), RAW)))
    with answered():
        Record(folder)


CHECKS = [check_checkpoint, check_entry, check_data]


@pytest.mark.parametrize("check", CHECKS)
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(data=st.data())
def test_damage_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, check: Any, data: st.DataObject
) -> None:
    monkeypatch.setenv("REATTENTION_DATA", str(folder))
    check(folder, data)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
@settings(max_examples=400, deadline=None, suppress_health_check=QUIET)
@given(data=st.data())
def test_storm_of_damage(
    folder: Path, monkeypatch: pytest.MonkeyPatch, check: Any, data: st.DataObject
) -> None:
    monkeypatch.setenv("REATTENTION_DATA", str(folder))
    check(folder, data)
