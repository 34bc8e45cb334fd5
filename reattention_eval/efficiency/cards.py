"""GPUs by name, with what their makers say of them."""

from __future__ import annotations

from dataclasses import dataclass

from reattention_eval.errors import ConfigError
from reattention_eval.machine_memory import GIB

AUTO = "auto"


@dataclass(frozen=True)
class Card:
    """Figures of a data sheet.

    Attributes:
        name: as PyTorch says it.
        memory: bytes that the driver offers.
        flops: bfloat16 products a second, dense.
        bandwidth: bytes a second of its memory.
        link: bytes a second from host memory, one direction.
    """

    name: str
    memory: int
    flops: float
    bandwidth: float
    link: float


# NVIDIA's data sheets of the SXM forms; PCI Express 5 and 4 with 16 lanes
CARDS = {
    "h100-80g": Card("NVIDIA H100 80GB HBM3", int(79.1 * GIB), 989e12, 3.35e12, 64e9),
    "h200": Card("NVIDIA H200", int(139.7 * GIB), 989e12, 4.8e12, 64e9),
    "a100-80g": Card("NVIDIA A100-SXM4-80GB", int(79.1 * GIB), 312e12, 2.04e12, 32e9),
}


def card_by_key(key: str) -> Card:
    """As `--gpu` names it.

    Raises:
        ConfigError: no such card.
    """
    if key not in CARDS:
        raise ConfigError(
            f"unknown GPU {key!r}; choose {AUTO} (this machine's) or one of {', '.join(CARDS)}, or "
            "give any other by --gpu-memory."
        )
    return CARDS[key]


def card_by_name(name: str) -> Card | None:
    """By PyTorch's name; None for one that is not in the table."""
    return next((card for card in CARDS.values() if card.name == name), None)
