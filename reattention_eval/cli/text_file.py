"""A text file of a user's, or one sentence of why it is none."""

from __future__ import annotations

from pathlib import Path

from reattention_eval.efficiency import main_memory
from reattention_eval.errors import ConfigError, DataError

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
    size, memory = path.stat().st_size, main_memory()
    if memory is not None and size * TOKENISING_BYTES > memory:
        raise DataError(
            f"{path} is {size / 1e9:.1f} GB, and tokenising it takes more than the "
            f"{memory / 1e9:.1f} GB of memory that are left here; give a part of it."
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
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
    return text.replace("\r\n", "\n")
