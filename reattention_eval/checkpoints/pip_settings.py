"""Which package index this machine uses: what `pip install` reaches is reached the same way.

Read: index-url, extra-index-url, find-links (local folders), proxy, cert, trusted-host, timeout;
from pip's configuration files and PIP_* variables, with pip's own precedence.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

DEFAULT_INDEX = "https://pypi.org/simple"
_READ = ("index-url", "extra-index-url", "find-links", "proxy", "cert", "trusted-host", "timeout",
         "default-timeout", "no-index")  # fmt: skip
# pip: later sections override earlier ones, variables override all
_SECTIONS = ("global", "install", "download", ":env:")


@dataclass(frozen=True)
class IndexSettings:
    """How to reach a package index. `timeout` is in seconds; `cert` is a file or folder of CAs."""

    indexes: tuple[str, ...] = (DEFAULT_INDEX,)
    find_links: tuple[str, ...] = ()
    proxy: str | None = None
    cert: str | None = None
    trusted_hosts: tuple[str, ...] = ()
    timeout: float = 30.0


def index_settings() -> IndexSettings:
    """The settings `pip download` would use here; without pip, those of the PIP_* variables."""
    values = {name: value for name, value in _from_pip().items() if name in _READ}
    for name in _READ:
        if value := os.environ.get("PIP_" + name.upper().replace("-", "_")):
            values[name] = value
    return _settings(values)


def _settings(values: Mapping[str, str]) -> IndexSettings:
    words = {name: tuple(value.split()) for name, value in values.items()}
    indexes = words.get("index-url", ())[:1] or (DEFAULT_INDEX,)
    indexes += words.get("extra-index-url", ())
    if values.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        indexes = ()
    timeout = values.get("timeout") or values.get("default-timeout") or ""
    return IndexSettings(
        indexes=tuple(url.rstrip("/") for url in indexes),
        find_links=words.get("find-links", ()),
        proxy=values.get("proxy") or None,
        cert=values.get("cert") or None,
        trusted_hosts=words.get("trusted-host", ()),
        timeout=float(timeout) if timeout.isdigit() else IndexSettings.timeout,
    )


def _from_pip() -> dict[str, str]:
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"],
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}  # an environment without pip
    return _parse(answer)


def _parse(listing: str) -> dict[str, str]:
    """`pip config list` prints one `section.name='value'` a line."""
    by_section: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for line in listing.splitlines():
        key, equals, quoted = line.partition("=")
        section, dot, name = key.rpartition(".")
        if not (equals and dot and section in by_section):
            continue
        try:
            by_section[section][name] = str(ast.literal_eval(quoted))
        except (ValueError, SyntaxError):
            continue
    merged: dict[str, str] = {}
    for section in _SECTIONS:
        merged.update(by_section[section])
    return merged
