"""results/gpu/bars.json: who measured what, of which source, and the check of both."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import reattention_kernels

PACKAGE = Path(reattention_kernels.__file__).parent
REPO = PACKAGE.parent.parent
IGNORED = {"__pycache__"}


def tree_hash(folder: Path) -> str:
    """Git's hash of a folder's content: what `git rev-parse COMMIT:folder` prints for it."""
    entries = []
    for path in folder.iterdir():
        if path.name in IGNORED or path.suffix == ".pyc":
            continue
        if path.is_dir():
            entries.append((path.name + "/", b"40000 " + path.name.encode(), tree_hash(path)))
        else:
            mode = b"100755 " if os.access(path, os.X_OK) else b"100644 "
            blob = _git_object(b"blob", path.read_bytes())
            entries.append((path.name, mode + path.name.encode(), blob))
    entries.sort(key=lambda entry: entry[0].encode())
    body = b"".join(head + b"\0" + bytes.fromhex(digest) for _, head, digest in entries)
    return _git_object(b"tree", body)


def _git_object(kind: bytes, body: bytes) -> str:
    return hashlib.sha1(kind + b" %d\0" % len(body) + body).hexdigest()


def git(*words: str) -> str | None:
    """Git's answer in the repository, None where there is none."""
    done = subprocess.run(["git", *words], cwd=REPO, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def source(stated: str | None, folder: Path = PACKAGE) -> tuple[str, str]:
    """(commit, hash of a folder of the repository) of what runs here.

    stated: the commit that this is a copy of, where its history is not here (or is another's).

    Raises:
        ValueError: the folder is not what the commit has, or a copy without Git names no commit.
    """
    tree = tree_hash(folder)
    commit = git("rev-parse", "--verify", "--quiet", f"{stated or 'HEAD'}^{{commit}}")
    if commit is None:
        if not stated:
            raise ValueError(
                "this copy has no Git history; state the commit it was made from with --commit "
                "(the hash of its files is recorded with it, and --check compares the two)."
            )
        return stated, tree
    if git("rev-parse", f"{commit}:{folder.relative_to(REPO).as_posix()}") != tree:
        raise ValueError(
            f"{folder.name} differs from {stated or 'the last commit'}, so a record could not be "
            "traced; commit it, or run the kernels' bench with --no-record."
        )
    return commit, tree


def verify_source(entry: dict[str, Any]) -> bool | None:
    """Does the entry's commit hold the source it was measured with? None: commit unknown here.

    `source` is the hash of the kernels' folder, `package`, where whole prompts were measured, that
    of reattention_eval.
    """
    folders = {"source": PACKAGE.relative_to(REPO).as_posix(), "package": "reattention_eval"}
    for name, folder in folders.items():
        if name not in entry:
            continue
        known = git("rev-parse", "--verify", "--quiet", f"{entry['commit']}:{folder}")
        if known is None or known != entry[name]:
            return None if known is None else False
    return True


def save(path: Path, entries: list[dict[str, Any]]) -> None:
    """Write entries; one of the same id and device is replaced."""
    held = load(path)
    fresh = {(entry["id"], entry["device"]) for entry in entries}
    held = [entry for entry in held if (entry["id"], entry["device"]) not in fresh]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(held + entries, indent=1) + "\n")


def load(path: Path) -> list[dict[str, Any]]:
    held: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return held


def today() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d")
