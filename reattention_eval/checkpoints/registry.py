"""Fetch a wheel from the package index (PEP 503 and 691 simple API)."""

from __future__ import annotations

import html.parser
import json
import os
import re
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from reattention_eval.checkpoints.cache_dir import cache_folder
from reattention_eval.checkpoints.download import (
    HTTPRefused,
    download,
    file_sha256,
    logger,
    open_url,
    without_login,
)
from reattention_eval.checkpoints.pip_settings import IndexSettings, index_settings
from reattention_eval.checkpoints.progress import Say, Show
from reattention_eval.errors import DownloadError

_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


@dataclass(frozen=True)
class Wheel:
    """A pure-Python wheel by name, version, the sha256 of the file and its bytes (0: not known)."""

    package: str
    version: str
    sha256: str
    size: int = 0


def fetch_wheel(
    wheel: Wheel,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    progress: bool = True,
    say: Say = logger.info,
    settings: IndexSettings | None = None,
    show: Show | None = None,
) -> Path:
    """The wheel in the cache, downloaded if it is not there (resumed, verified, never installed).

    Args:
        show: how the transfer is shown, instead of a bar of its own (`progress`).

    Raises:
        DownloadError: no index has it, no network, cut off, wrong checksum, or disk full.
        ConfigError: the cache folder cannot be used.
    """
    target = wheel_path(wheel, cache_dir)
    with locked(target):
        if not target.exists():
            settings = settings or index_settings()
            url = _find(wheel, settings)
            download(
                url, target, sha256=wheel.sha256, settings=settings, progress=progress, say=say,
                show=show,
            )  # fmt: skip
    return target


def wheel_path(wheel: Wheel, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where `fetch_wheel` puts it."""
    return cache_folder(cache_dir, "downloads") / f"{_stem(wheel)}-{wheel.sha256[:12]}.whl"


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """One process at a time makes `target`; the others wait and find it made."""
    with FileLock(str(target) + ".lock"):
        yield


def _stem(wheel: Wheel) -> str:
    return f"{re.sub(r'[-_.]+', '_', wheel.package).lower()}-{wheel.version}"


def _find(wheel: Wheel, settings: IndexSettings) -> str:
    """The URL of the wheel: a local find-links folder first, then the indexes in order."""
    for place in settings.find_links:
        folder = Path(place.removeprefix("file://"))
        if folder.is_dir():
            for path in sorted(folder.glob("*.whl")):
                if _matches(path.name, wheel) and file_sha256(path) == wheel.sha256:
                    return path.resolve().as_uri()
    tried: list[str] = []
    failure: DownloadError | None = None
    for index in settings.indexes:
        project = re.sub(r"[-_.]+", "-", wheel.package).lower()
        page = f"{index}/{project}/"
        tried.append(without_login(index))
        try:
            links = list(_links(page, settings))
        except DownloadError as error:
            if not (isinstance(error, HTTPRefused) and error.status == 404):
                failure = failure or error
            continue
        matching = [link for link in links if _matches(link.filename, wheel)]
        exact = [link for link in matching if link.sha256 == wheel.sha256]
        if chosen := (exact or [link for link in matching if link.sha256 is None]):
            return _with_login(chosen[0].url, index)
    if failure is not None:
        raise failure
    raise DownloadError(
        f"{wheel.package}=={wheel.version} (sha256 {wheel.sha256[:12]}...) was not found on "
        f"{', '.join(tried) or 'any index, because pip is set to no-index'}; "
        "set PIP_INDEX_URL to an index that carries it."
    )


@dataclass(frozen=True)
class _Link:
    filename: str
    url: str
    sha256: str | None


def _links(page: str, settings: IndexSettings) -> Iterator[_Link]:
    if page.startswith("file:"):
        page += "index.html"
    with open_url(page, settings, {"Accept": _ACCEPT}) as response:
        body: bytes = response.read()
        kind = response.headers.get("Content-Type") or ""
        base = response.geturl()
    if "json" in kind:
        for file in json.loads(body)["files"]:
            url = urllib.parse.urljoin(base, file["url"])
            yield _Link(file["filename"], url, file.get("hashes", {}).get("sha256"))
        return
    parser = _Anchors()
    parser.feed(body.decode("utf-8", "replace"))
    for href in parser.hrefs:
        url, _, fragment = urllib.parse.urljoin(base, href).partition("#")
        digest = urllib.parse.parse_qs(fragment).get("sha256", [None])[0]
        filename = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
        yield _Link(filename, url, digest)


class _Anchors(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hrefs += [value for name, value in attrs if (tag, name) == ("a", "href") and value]


def _matches(filename: str, wheel: Wheel) -> bool:
    name, _, rest = filename.partition("-")
    version = rest.partition("-")[0]
    return filename.endswith(".whl") and f"{name}-{version}".lower() == _stem(wheel)


def _with_login(url: str, index: str) -> str:
    """Files on the index's own host need the index's login."""
    login, at, host = urllib.parse.urlsplit(index).netloc.rpartition("@")
    parts: Any = urllib.parse.urlsplit(url)
    if at and parts.netloc == host:
        return urllib.parse.urlunsplit(parts._replace(netloc=f"{login}@{host}"))
    return url
