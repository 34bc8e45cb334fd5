"""One file from the Hugging Face hub: resumed where it stopped and proven by the hub's digest.

Addresses, logins, proxies and the HTTP itself are huggingface_hub's (HF_ENDPOINT, HF_TOKEN or
`hf auth login`, HF_HUB_OFFLINE, HTTPS_PROXY). Its own `hf_hub_download` does not go on with a file
that an earlier process began (since 1.x, and never through Xet), which matters for files of
hundreds of megabytes; so the bytes go to a part file of ours.
"""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import HfFileMetadata, http_get
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    build_hf_headers,
    disable_progress_bars,
    enable_progress_bars,
    logging,
)

from reattention_eval.checkpoints.download import disk_errors, logger
from reattention_eval.checkpoints.progress import Say, transfer_progress
from reattention_eval.datasets.prepare.lock import Hub
from reattention_eval.datasets.prepare.record import DISK_CURE
from reattention_eval.datasets.prepare.verify import matches_etag
from reattention_eval.errors import DownloadError

_TRIES = 5
_PIECE = 1 << 16
_SECONDS = 30.0
# what the HTTP library raises: requests' errors are OSErrors, httpx's derive from this base
_TRANSPORT: tuple[type[Exception], ...] = (OSError, HfHubHTTPError.__bases__[0])


class HubUnavailable(DownloadError):
    """Nothing can be fetched from the hub now: no network, or offline mode."""


@dataclass(frozen=True)
class Fetched:
    """A whole file, the commit it is of, and whether the hub's own digest proves it."""

    path: Path
    commit: str
    proven: bool


def fetch(
    hub: Hub, path: str, parts: Path, most_bytes: int, *, progress: bool, say: Say
) -> Fetched:
    """The file `path` of the dataset, as a whole, below `parts`.

    Raises:
        HubUnavailable: no network, or offline mode.
        DownloadError: refused, not there, larger than `most_bytes`, cut off again and again, wrong
            digest, or disk full.
    """
    metadata = _ask(hub, path)
    size, etag, commit = metadata.size, metadata.etag, metadata.commit_hash
    if size is None or not etag or not commit:
        raise DownloadError(
            f"{endpoint()} does not answer like a Hugging Face hub for {hub.repo}/{path} "
            "(no size, ETag or commit); check HF_ENDPOINT and your proxy."
        )
    if size > most_bytes:
        raise DownloadError(
            f"{endpoint()} has {path} of {hub.repo} with {size:,} bytes, and the file that is "
            f"wanted has at most {most_bytes:,}; if HF_ENDPOINT names a mirror, unset it."
        )
    name = path.rpartition("/")[2]
    part = parts / f"{name}.{re.sub('[^0-9A-Za-z]', '', etag)[:16]}.part"
    for other in parts.glob(f"{name}.*.part"):
        if other != part:
            other.unlink()  # of another version of the file
    if part.exists() and part.stat().st_size > size:
        part.unlink()
    resumed = part.exists()
    download = _Download(hub, path, commit, part, size, progress, say)
    download.run()
    if resumed and matches_etag(part, etag) is False:
        say(f"{name}: the resumed file is damaged, fetching it anew")
        part.unlink()
        download.run()
    proven = matches_etag(part, etag)
    if proven is False:
        part.unlink()
        raise DownloadError(
            f"{path} of {hub.repo} has the wrong checksum (not the one that the hub states), so it "
            "was discarded; run the command again, and if it repeats, check HF_ENDPOINT and your "
            "proxy."
        )
    return Fetched(part, commit, bool(proven))


@dataclass(frozen=True)
class _Download:
    hub: Hub
    path: str
    commit: str
    part: Path
    size: int
    progress: bool
    say: Say

    def run(self) -> None:
        """Bytes to `part` until it has `size`; where it breaks off, it goes on."""
        name, have, failures = self.path.rpartition("/")[2], self._have(), 0
        if have == self.size:
            return
        with transfer_progress(name, have, self.size, self.progress, self.say) as advance:
            while True:
                try:
                    with disk_errors(self.part, self.size - have, DISK_CURE), _our_way():
                        return self._receive(advance)
                except HfHubHTTPError as error:
                    raise _explain(error, self.hub, self.path) from error
                except _TRANSPORT as error:
                    logger.debug("%s: %s", self.path, error)
                    now = self._have()
                    failures, have = (1 if now > have else failures + 1), now
                if failures == _TRIES:
                    raise DownloadError(
                        f"the download of {self.path} stopped at {have:,} of {self.size:,} bytes; "
                        "run the command again, it goes on from there."
                    )
                self.say(
                    f"{name}: the connection broke at {have:,} of {self.size:,} bytes, trying again"
                )
                time.sleep(0.2 * 2**failures)

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _receive(self, advance: Callable[[int], None]) -> None:
        # by commit, so that a resumed file cannot be of two versions; not packed, so that ranges
        # count the file's own bytes
        url = _url(self.hub, self.path, self.commit)
        headers = {**_headers(), "accept-encoding": "identity"}
        with _Counted(self.part, advance) as file:
            http_get(url, file, resume_size=file.tell(), headers=headers, expected_size=self.size)


class _Counted(io.FileIO):
    """A file opened to append that tells how many bytes were written."""

    def __init__(self, path: Path, advance: Callable[[int], None]) -> None:
        super().__init__(str(path), "a")
        self.seek(0, io.SEEK_END)
        self._advance = advance

    def write(self, block: bytes) -> int:  # type: ignore[override]
        left = memoryview(block)
        while left:  # a raw write may take only a piece
            written = super().write(left) or 0
            self._advance(written)
            left = left[written:]
        return len(block)


def _ask(hub: Hub, path: str) -> HfFileMetadata:
    try:
        url = _url(hub, path, hub.revision)
        with _our_way():
            return get_hf_file_metadata(
                url, timeout=_SECONDS, headers=_headers(), endpoint=endpoint()
            )
    except _TRANSPORT as error:
        raise _explain(error, hub, path) from error


def _explain(error: Exception, hub: Hub, path: str) -> DownloadError:
    place, local = f"{path} of the dataset {hub.repo}", "or import a copy with --from"
    login = "log in with `hf auth login` or set HF_TOKEN"
    if isinstance(error, OfflineModeIsEnabled):
        return HubUnavailable(
            f"{place} is not here and the hub is switched off (HF_HUB_OFFLINE); unset that, "
            f"{local}."
        )
    if isinstance(error, GatedRepoError):
        return DownloadError(
            f"the hub gives {place} only to those whom its owner lets in; ask for access at "
            f"{endpoint()}/datasets/{hub.repo} and {login}, {local}."
        )
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status == 401:
        return DownloadError(f"the hub asks for a login for {place} (HTTP 401); {login}, {local}.")
    if status == 403:
        return DownloadError(
            f"the hub refuses {place} (HTTP 403): the token may lack the right; {login} with one "
            f"that may read it, {local}."
        )
    if isinstance(error, (EntryNotFoundError, RevisionNotFoundError, RepositoryNotFoundError)):
        return DownloadError(
            f"{endpoint()} has no {place} at revision {hub.revision} (HTTP 404); if HF_ENDPOINT "
            f"names a mirror, unset it, {local}."
        )
    if status is not None:
        return DownloadError(
            f"the hub answered HTTP {status} for {place}; try again later, {local}."
        )
    return HubUnavailable(
        f"{endpoint()} cannot be reached ({type(error).__name__}: {_root(error)}); check the "
        f"network, HTTPS_PROXY and HF_ENDPOINT, {local}."
    )


def _root(error: BaseException) -> BaseException:
    """What it began with: the HTTP libraries wrap a socket's error several times."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error


def endpoint() -> str:
    """The hub's address: HF_ENDPOINT or huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def _url(hub: Hub, path: str, revision: str) -> str:
    return hf_hub_url(hub.repo, path, repo_type="dataset", revision=revision, endpoint=endpoint())


def _headers() -> dict[str, str]:
    return build_hf_headers(library_name="reattention-eval")


@contextmanager
def _our_way() -> Iterator[None]:
    """Meanwhile the hub library shows no bars, logs no retries, and writes in small pieces.

    What a broken connection left of a piece is lost, and its pieces are of 10 MB.
    """
    shown, verbosity = not are_progress_bars_disabled(), logging.get_verbosity()
    piece = constants.DOWNLOAD_CHUNK_SIZE
    disable_progress_bars()
    logging.set_verbosity_error()
    constants.DOWNLOAD_CHUNK_SIZE = _PIECE
    try:
        yield
    finally:
        constants.DOWNLOAD_CHUNK_SIZE = piece
        logging.set_verbosity(verbosity)
        if shown:
            enable_progress_bars()
