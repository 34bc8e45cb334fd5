"""Cache tiers of prompts that a test can read: values leave the device, block by block."""

from __future__ import annotations

from typing import Any

from reattention_eval.cache import capacity, host_values, tiers


def make_tiers_small(
    monkeypatch: Any, *, group: int = 12, window: int = 4, block: int = 1024, leave: int = 3
) -> None:
    """group, window, leave: tokens; block: bytes."""
    monkeypatch.setattr(tiers, "GROUP_TOKENS", group)
    monkeypatch.setattr(tiers, "LEAST_WINDOW", window)
    monkeypatch.setattr(tiers, "BLOCK_BYTES", block)
    monkeypatch.setattr(host_values, "LEAVE_TOKENS", leave)


def leave_room_for_keys(monkeypatch: Any, away: int) -> None:
    """On devices, of all layers but `away`: what "auto" does with a prompt that is too long."""
    monkeypatch.setattr(capacity, "_fits", lambda *asked: len(asked[-1]) >= away)
