"""A text file of a user's, or one sentence of why it is none."""

from __future__ import annotations

import math
from pathlib import Path

from reattention_eval.efficiency import main_memory
from reattention_eval.errors import ConfigError, DataError
from reattention_eval.unicode_text import require_text

# that tokenising takes for every byte of text: offsets and alignments of the tokenizers library
TOKENISING_BYTES = 64


def read_text(path: Path, encoding: str) -> str:
    """The file's text.

    Raises:
        DataError: not there, no file, empty, binary, in another encoding, larger than memory.
        ConfigError: there is no such encoding.
    """
    path = path.expanduser()
    if not path.exists():
        raise DataError(f"there is no file {path}; give the path of a text file.")
    if path.is_dir():
        raise DataError(f"{path} is a folder; give a text file.")
    memory = main_memory()
    most = math.inf if memory is None else memory / TOKENISING_BYTES
    try:
        size = path.stat().st_size
        data = b"" if size > most else _bytes(path, most)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    if max(size, len(data)) > most:
        raise DataError(
            f"{path} is {max(size, len(data)) / 1e9:.1f} GB, and tokenising it takes more than the "
            f"{(memory or 0) / 1e9:.1f} GB of memory that are left here; give a part of it."
        )
    utf8 = encoding.lower().replace("_", "-") in ("utf-8", "utf8")
    if utf8 and b"\0" in data:
        raise DataError(
            f"{path} is a binary file (a NUL byte at {data.index(0):,}); give a text file, or its "
            "--encoding if it is text in UTF-16 or UTF-32."
        )
    try:
        text = data.decode("utf-8-sig" if utf8 else encoding)
    except LookupError:
        raise ConfigError(
            f"there is no encoding {encoding!r}; try utf-8, utf-16, latin-1 or cp1252."
        ) from None
    except UnicodeError as error:
        where = f" at byte {error.start:,}" if isinstance(error, UnicodeDecodeError) else ""
        raise DataError(
            f"{path} is no text in {encoding}{where}; give its --encoding, as latin-1 or utf-16."
        ) from None
    if not text.strip():
        raise DataError(f"{path} is empty; give a file that holds text.")
    require_text(text, str(path))
    return text.replace("\r\n", "\n")


def _bytes(path: Path, most: float) -> bytes:
    """What it holds, or a little more than `most`: a pipe or a device does not say its size, and
    may have no end."""
    data = bytearray()
    with path.open("rb") as file:
        while len(data) <= most and (part := file.read(1 << 24)):
            data += part
    return bytes(data)
