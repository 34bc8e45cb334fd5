"""Comparing two texts."""

from __future__ import annotations


def edit_distance(first: str, second: str) -> int:
    """Levenshtein distance: insertions, deletions and substitutions of one character."""
    if len(first) < len(second):
        first, second = second, first
    row = list(range(len(second) + 1))  # distances from first[:i] to every second[:j]
    for i, a in enumerate(first, start=1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def edit_similarity(first: str, second: str) -> float:
    """1 - edit distance / length of the longer text; 1.0 for two empty texts."""
    longest = max(len(first), len(second))
    return 1.0 - edit_distance(first, second) / longest if longest else 1.0
