"""A disk of its own that is full or read-only for real: a tmpfs, mounted as root."""

from __future__ import annotations

import subprocess
from pathlib import Path


class SmallDisk:
    """A tmpfs on `folder`; `mounted` is False where mounting is not allowed."""

    def __init__(self, folder: Path, size: str) -> None:
        self.folder = folder
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        try:
            self.mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            self.mounted = False

    def change(self, options: str) -> None:
        """`size=8m`, `ro`, `rw`."""
        words = ["mount", "-o", f"remount,{options}", str(self.folder)]
        subprocess.run(words, check=True)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", str(self.folder)], check=True)
