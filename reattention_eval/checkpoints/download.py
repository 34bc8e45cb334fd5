"""One file over HTTP: resumed where it stopped, verified, and put in place only when whole."""

from __future__ import annotations

import base64
import errno
import hashlib
import http.client
import logging
import os
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from reattention_eval.checkpoints.pip_settings import IndexSettings
from reattention_eval.checkpoints.progress import Say, Show, transfer_progress
from reattention_eval.errors import DownloadError

logger = logging.getLogger(__name__)

_BLOCK = 1 << 18
_TRIES = 5
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)


def open_url(url: str, settings: IndexSettings, headers: dict[str, str] | None = None) -> Any:
    """The response to a GET of `url`, by the proxy, certificates and login that pip would use.

    Raises:
        DownloadError: no network, or the server refused; `status` carries an HTTP refusal's code.
    """
    parts = urllib.parse.urlsplit(url)
    request = urllib.request.Request(without_login(url), headers=headers or {})
    request.add_header("User-Agent", "reattention-eval")
    if parts.username is not None:
        login = f"{parts.username}:{parts.password or ''}"
        token = base64.b64encode(urllib.parse.unquote(login).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    handlers: list[Any] = [urllib.request.HTTPSHandler(context=_ssl_context(parts, settings))]
    if settings.proxy:
        proxies = {"http": settings.proxy, "https": settings.proxy}
        handlers.append(urllib.request.ProxyHandler(proxies))
    try:
        return urllib.request.build_opener(*handlers).open(request, timeout=settings.timeout)
    except urllib.error.HTTPError as error:
        raise HTTPRefused(error.code, without_login(url)) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise DownloadError(
            f"{parts.hostname or url} cannot be reached ({reason}); check the network, and if you "
            "use a mirror or a proxy, PIP_INDEX_URL and HTTPS_PROXY (pip's settings are honoured)."
        ) from error


class HTTPRefused(DownloadError):
    """The server answered with an error `status`."""

    def __init__(self, status: int, url: str) -> None:
        self.status = status
        cure = {
            401: "put the login into the index URL (PIP_INDEX_URL=https://user:password@host/simple)",
            403: "check that this machine may use the index, or set PIP_INDEX_URL to another",
            404: "check PIP_INDEX_URL: that index may not carry the file",
        }.get(status, "try again later, or set PIP_INDEX_URL to another index")
        super().__init__(f"the server answered HTTP {status} for {url}; {cure}.")


def download(
    url: str,
    target: Path,
    *,
    sha256: str,
    settings: IndexSettings,
    progress: bool,
    say: Say,
    show: Show | None = None,
) -> Path:
    """Fetch `url` to `target`, through `target`.part, which a later call continues.

    Args:
        progress: a bar of its own where standard error is a terminal; `show` instead of it.

    Raises:
        DownloadError: no network, refused, cut off (five times), wrong checksum, or disk full.
    """
    show = show or partial(transfer_progress, wanted=progress, say=say)
    part = partial_file(target)
    resumed = part.exists()
    _fetch(url, part, settings, say, show)
    found = file_sha256(part)
    if found != sha256 and resumed:
        # the piece from an earlier run may have been another file's
        say(f"{target.name}: the resumed file is damaged, fetching it anew")
        part.unlink()
        _fetch(url, part, settings, say, show)
        found = file_sha256(part)
    if found != sha256:
        part.unlink()
        raise DownloadError(
            f"{target.name} has the wrong checksum (sha256 {found[:12]}..., expected "
            f"{sha256[:12]}...), so it was discarded; run the command again, and if it repeats, "
            "the index serves another file: check PIP_INDEX_URL."
        )
    os.replace(part, target)
    return target


def partial_file(target: Path) -> Path:
    """Where what has come of `target` lies until it is whole."""
    return target.with_name(target.name + ".part")


def _fetch(url: str, part: Path, settings: IndexSettings, say: Say, show: Show) -> None:
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(0.2 * 2**attempt)
        have = part.stat().st_size if part.exists() else 0
        total, broke = _fetch_once(url, part, have, settings, show)
        have = part.stat().st_size
        if have == total or (total is None and not broke):
            return
        if total is not None and have > total:
            part.unlink()
        of = f"{have:,} bytes" if total is None else f"{have:,} of {total:,} bytes"
        say(f"{part.stem}: the connection broke at {of}, trying again")
    raise DownloadError(
        f"the download of {part.stem} stopped at {of}; "
        "run the command again, it goes on from there."
    )


def _fetch_once(
    url: str, part: Path, have: int, settings: IndexSettings, show: Show
) -> tuple[int | None, bool]:
    """Append what the server still sends; the whole file's size (if told) and whether it broke."""
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        response = open_url(url, settings, headers)
    except HTTPRefused as refused:
        if refused.status != 416:
            raise
        return None, False  # nothing is left to send; the checksum decides
    with response:
        if getattr(response, "status", None) != 206:
            have = 0  # the server starts from the beginning
        length = response.headers.get("Content-Length")
        left = int(length) if length else None
        total = None if left is None else have + left
        with (
            disk_errors(part, left),
            part.open("ab" if have else "wb") as file,
            show(part.stem, have, total) as advance,
        ):
            while True:
                try:
                    block = response.read(_BLOCK)
                except (OSError, http.client.HTTPException) as error:
                    logger.debug("%s: %s", part.stem, error)
                    return total, True
                if not block:
                    return total, False
                file.write(block)
                advance(len(block))


@contextmanager
def disk_errors(
    path: Path,
    needed: int | None,
    cure: str = "free some space, or set REATTENTION_CACHE to a folder on another disk",
) -> Iterator[None]:
    """Say a full disk as a full disk; refuse beforehand when `needed` bytes are not free."""
    folder = path.parent
    if needed is not None and (free := shutil.disk_usage(folder).free) < needed:
        raise DownloadError(
            f"{path.name} needs {needed:,} bytes but only {free:,} are free in {folder}; {cure}."
        )
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise DownloadError(
            f"the disk of {folder} is full while writing {path.name}; {cure}."
        ) from error


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def without_login(url: str) -> str:
    """The URL as it may be shown: an index URL can carry a password."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _ssl_context(parts: urllib.parse.SplitResult, settings: IndexSettings) -> ssl.SSLContext:
    context = ssl.create_default_context()
    cert = settings.cert or os.environ.get("REQUESTS_CA_BUNDLE")
    if cert and Path(cert).exists():
        context.load_verify_locations(**{"capath" if Path(cert).is_dir() else "cafile": cert})
    elif not context.get_ca_certs() and not os.environ.get("SSL_CERT_FILE"):
        _use_certifi(context)
    if {parts.hostname, parts.netloc.rpartition("@")[2]} & set(settings.trusted_hosts):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _use_certifi(context: ssl.SSLContext) -> None:
    """Some Python builds find no system certificates."""
    try:
        import certifi
    except ImportError:
        return
    context.load_verify_locations(cafile=certifi.where())
