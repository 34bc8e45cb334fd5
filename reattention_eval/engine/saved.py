"""A folder of safetensors files that is whole or refused: what `Session.save` leaves.

`session.json` says what the tensors belong to and lists every file with its sha256; it is written
last, in a folder that gets its name last.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from reattention_eval.errors import ConfigError, DataError
from reattention_eval.json_text import read_object
from reattention_eval.machine_memory import GIB

FORMAT = 1
HEADER = "session.json"
_AGAIN = "read the text again, and save it"


@dataclass(frozen=True)
class SavedPrompt:
    """What a session knows besides its cache.

    prompt: ids of what came by prefill, the cache's beginning; prompt_length: that it was to have;
    logits: [1, vocab] behind the cache's last token.
    """

    prompt: list[int]
    prompt_length: int
    logits: Tensor


Parts = Iterable[tuple[str, dict[str, Tensor]]]  # a file's name, its tensors


def write_folder(folder: Path, about: dict[str, Any], parts: Parts, size: int) -> None:
    """Write `parts` one after another, so that no more than one of them is held twice.

    Args:
        about: what reading gives back; JSON.
        size: bytes of all tensors.

    Raises:
        ConfigError: the folder holds something else.
        DataError: too little room, or the disk refuses.
    """
    folder = Path(os.path.abspath(folder.expanduser()))
    check_target(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if free < size:
            raise DataError(
                f"what was read takes {size / GIB:.2f} GiB and the disk of {folder.parent} has "
                f"{free / GIB:.2f} GiB left; make room, or save it on another disk."
            )
        with _named_when_whole(folder) as partial:
            files = {}
            for name, tensors in parts:
                data = bytes_of({key: part.cpu().contiguous() for key, part in tensors.items()})
                (partial / name).write_bytes(data)
                files[name] = [len(data), hashlib.sha256(data).hexdigest()]
            held = {"format": FORMAT, **about, "files": files}
            text = json.dumps({**held, "sha256": _digest(held)}, indent=1)
            (partial / HEADER).write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"what was read cannot be saved in {folder} ({error.strerror or error}); "
            "give a folder that you can write to, on a disk with room."
        ) from error


def read_about(folder: Path) -> dict[str, Any]:
    """What `write_folder` was told, if every file that it lists is there in its length.

    Raises:
        DataError: no saved session, one of another version, or a damaged or incomplete one.
    """
    folder = folder.expanduser()
    if not (folder / HEADER).is_file():
        raise DataError(
            f"{folder} holds no saved session (there is no {HEADER} in it); give the folder that "
            "was saved."
        )
    try:
        held = read_object(folder / HEADER)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / HEADER} cannot be read ({error}); {_AGAIN}.") from error
    if held.get("format") != FORMAT:
        raise DataError(
            f"{folder} was saved in format {held.get('format')!r:.40} and this version reads "
            f"{FORMAT}; {_AGAIN}."
        )
    if held.pop("sha256", None) != _digest(held):
        raise DataError(f"{folder / HEADER} was changed or is damaged; {_AGAIN}.")
    for name, (size, _) in held["files"].items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            what = "is missing" if found is None else f"has {found:,} bytes, not {size:,}"
            raise DataError(f"{path} {what}: the saved session is not whole; {_AGAIN}.")
    return held


def read_file(folder: Path, about: dict[str, Any], name: str) -> dict[str, Tensor]:
    """The tensors of one of the files, on the CPU.

    Raises:
        DataError: the file is not what was written.
    """
    path = folder.expanduser() / name
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != about["files"][name][1]:
            raise DataError(f"{path} is damaged (its sha256 is another); {_AGAIN}.")
        return tensors_of(data)
    except (OSError, KeyError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read ({error}); {_AGAIN}.") from error


def check_target(folder: Path) -> None:
    """Raise ConfigError where anything but a session that was saved before is in the way, or no
    folder can be made there."""
    above = next(x for x in Path(os.path.abspath(folder)).parents if x.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        why = "cannot be written in" if above.is_dir() else "is a file"
        raise ConfigError(f"{above} {why}, so {folder} cannot be made there; give another folder.")
    if folder.is_dir() and ((folder / HEADER).is_file() or not any(folder.iterdir())):
        return
    if folder.exists() or folder.is_symlink():
        kind = "holds other files" if folder.is_dir() else "is a file"
        raise ConfigError(f"{folder} {kind}; give a new folder, or one that was saved before.")


@contextmanager
def _named_when_whole(folder: Path) -> Iterator[Path]:
    """A folder to write in, which takes the name `folder` behind the block; nothing is left of it
    where the block fails."""
    partial, before = (folder.with_name(f"{folder.name}.{end}") for end in ("partial", "before"))
    for left in (partial, before):  # by a process that was killed
        if left.is_dir():
            shutil.rmtree(left)
    partial.mkdir()
    try:
        yield partial
        if folder.exists():
            folder.rename(before)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if before.exists():
        shutil.rmtree(before)


def _digest(held: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()
