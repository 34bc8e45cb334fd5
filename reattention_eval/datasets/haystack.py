"""Long real text to hide needles in."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reattention_eval.checkpoints.download import logger
from reattention_eval.checkpoints.progress import Say
from reattention_eval.datasets.sources import (
    essays_file,
    fetch_essays,
    fetch_plays,
    fetch_ruler_file,
    plays_file,
    ruler_file,
)
from reattention_eval.errors import ConfigError, DataError
from reattention_eval.json_text import parse

# tokens of SmolLM2: 654,000, 1,702,000 and some 8,600,000; in this order, as lengths need them
BUILT_IN = ("essays", "shakespeare", "wikipedia")
LONG = "+".join(BUILT_IN)
# a text longer than this is indexed in pieces, so that a prompt pays for what it needs
_PIECE = 12_000_000
# no tokenizer makes tokens of more characters than this on average out of prose
_CHARACTERS_A_TOKEN = 6


@dataclass(frozen=True)
class Haystack:
    """A text, its name, and the sha256 of its UTF-8 bytes."""

    name: str
    text: str
    sha256: str


def load_haystack(
    source: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    progress: bool = True,
    say: Say = logger.info,
) -> Haystack:
    """One text: a built-in name, a text file, or a folder of text files.

    `"essays"` are Paul Graham's as RULER uses them, white space made single spaces; `"shakespeare"`
    all his plays; `"wikipedia"` the paragraphs of HotpotQA, each once, by their titles. They are
    fetched once and then read offline. A `.json` file must hold {"text": ...}; any other
    file is taken as UTF-8 text; a folder is its .txt and .md files in the order of their names.

    Raises:
        DownloadError: a built-in text cannot be fetched.
        DataError: the file is missing, not UTF-8, or empty.
        ConfigError: there is no such name.
    """
    if source == "essays":
        path = fetch_essays(cache_dir, progress=progress, say=say)
        return _haystack("essays", re.sub(r"\s+", " ", _read(path)).strip())
    if source == "shakespeare":
        return _haystack("shakespeare", _read(fetch_plays(cache_dir, progress=progress, say=say)))
    if source == "wikipedia":
        path = fetch_ruler_file("hotpotqa.json", cache_dir, progress=progress, say=say)
        return _haystack("wikipedia", "\n\n".join(hotpotqa_paragraphs(path)))
    path = Path(source).expanduser()
    if not path.suffix and not path.exists() and path.parent == Path("."):
        raise ConfigError(
            f"there is no haystack named {str(source)!r}; the built-in ones are "
            f"{', '.join(map(repr, BUILT_IN))}, anything else is the path of a text file."
        )
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in (".txt", ".md"))
        return _haystack(path.name, "\n\n".join(_read(p).strip() for p in files))
    return _haystack(path.name, _read(path))


def haystack_parts(source: str) -> list[str]:
    """`"essays+shakespeare+/my/text.txt"` as the texts it names; `"long"` is all built-in ones."""
    if Path(source).expanduser().exists():
        return [source]
    names = (LONG if source == "long" else source).split("+")
    return list(dict.fromkeys(name.strip() for name in names if name.strip()))


def iter_haystack(source: str) -> Iterator[Haystack]:
    """The texts of `source` one after another, each loaded when it is asked for.

    Raises: as `load_haystack`.
    """
    for name in haystack_parts(source):
        haystack = load_haystack(name)
        if len(haystack.text) <= _PIECE:
            yield haystack
            continue
        for number, piece in enumerate(_pieces(haystack.text), start=1):
            yield _haystack(f"{haystack.name} ({number})", piece)


def check_haystack(source: str, length: int = 0) -> None:
    """Nothing if all the text that a prompt of `length` tokens can need is on this machine.

    Raises:
        DataError: a text is missing: evaluation downloads nothing.
        ConfigError: there is no such built-in text.
    """
    characters = 0
    for name in haystack_parts(source):
        if characters > length * _CHARACTERS_A_TOKEN:
            return
        path, command = _place(name)
        if not path.exists():
            if not command:
                raise DataError(
                    f"there is no haystack {name}; give the path of a text file, or "
                    f"{', '.join(map(repr, BUILT_IN))}, several joined by '+'."
                )
            raise DataError(
                f"the haystack {name} is not on this machine (looked for {path}). Fetch it with: "
                f"reattention-eval prepare {command}"
            )
        characters += path.stat().st_size


def hotpotqa_paragraphs(path: Path) -> list[str]:
    """Every paragraph of HotpotQA once, "title\\ntext", sorted, as RULER's documents."""
    try:
        questions = parse(path.read_bytes())
        return sorted({f"{title}\n{''.join(p)}" for q in questions for title, p in q["context"]})
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not HotpotQA's development set ({type(error).__name__}: {error}); delete "
            "it and run: reattention-eval prepare ruler"
        ) from error


def _pieces(text: str) -> Iterator[str]:
    """`text` in pieces of whole paragraphs, where it has any."""
    at = 0
    while at < len(text):
        end = text.rfind("\n\n", at, at + _PIECE) if at + _PIECE < len(text) else -1
        end = end if end > at else at + _PIECE
        if piece := text[at:end].strip("\n"):
            yield piece
        at = end


def _place(name: str) -> tuple[Path, str]:
    """Where a text lies and what `prepare` calls it ("" for a file of the user's own)."""
    if name == "essays":
        return essays_file(), "needle"
    if name == "shakespeare":
        return plays_file(), "needle"
    if name == "wikipedia":
        return ruler_file("hotpotqa.json"), "ruler"
    return Path(name).expanduser(), ""


def _haystack(name: str, text: str) -> Haystack:
    if not text.strip():
        raise DataError(f"the haystack {name} holds no text; give a longer file.")
    return Haystack(name, text, hashlib.sha256(text.encode()).hexdigest())


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
        return str(parse(text)["text"]) if path.suffix == ".json" else text
    except OSError as error:
        raise DataError(
            f"the haystack {path} cannot be read ({error.strerror}); check the path."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"the haystack {path} is not UTF-8 (byte {error.start}); convert it, "
            "for instance with iconv -t utf-8."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'the haystack {path} is not JSON of the form {{"text": "..."}}; '
            "give that, or plain text in a .txt file."
        ) from error
