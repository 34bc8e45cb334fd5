"""What a method attended to when a sample went wrong: read and drawn from `harness.selected`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reattention_eval.errors import DataError
from reattention_eval.json_text import read_object

FOLDER = "selected"
Ranges = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Selected:
    """One sample's view of its last prompt token, layer by layer.

    `layers`: the view of each layer as ranges of positions [first, last); `answers`: where the
    right answers stand in the prompt.
    """

    dataset: str
    index: int
    n_tokens: int
    reference: Any
    prediction: str
    layers: dict[int, Ranges]
    answers: Ranges

    @property
    def reached(self) -> int:
        """Layers whose view holds a right answer whole."""
        return sum(
            any(first <= a and b <= last for a, b in self.answers for first, last in view)
            for view in self.layers.values()
        )


def read_selected(work_dir: Path) -> list[Selected]:
    """What `harness.selected` left in a run's folder.

    Raises:
        DataError: a damaged file.
    """
    found = []
    for path in sorted((work_dir / FOLDER).glob("*/*.json")):
        try:
            data = read_object(path)
            found.append(
                Selected(
                    dataset=str(data["dataset"]),
                    index=int(data["index"]),
                    n_tokens=int(data["n_tokens"]),
                    reference=data["reference"],
                    prediction=str(data["prediction"]),
                    layers={int(k): [(a, b) for a, b in v] for k, v in data["layers"].items()},
                    answers=[(a, b) for a, b in data["answers"]],
                )
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is damaged ({error}); delete it and make it anew.") from error
    return found


def draw_selected(axis: Any, sample: Selected) -> None:
    """A row a layer: selected ranges as bars, right answers as lines."""
    least = sample.n_tokens / 600  # or a span of 32 in a million tokens is no pixel
    for layer, view in sample.layers.items():
        bars = [(first, max(last - first, least)) for first, last in view]
        axis.broken_barh(bars, (layer - 0.4, 0.8), facecolors="C0", lw=0)
    for first, _ in sample.answers:
        axis.axvline(first, color="C3", lw=0.8)
    axis.set_xlim(0, sample.n_tokens)
    axis.set_xlabel("position in the prompt, tokens", fontsize=8)
    axis.set_ylabel("layer", fontsize=8)
    said = " ".join(sample.prediction.split())[:60]
    axis.set_title(
        f"Selected for the last prompt token: {sample.dataset}, sample {sample.index}, answered "
        f"{said!r}; lines: the right answer, in the view of {sample.reached} of "
        f"{len(sample.layers)} layers",
        fontsize=9, parse_math=False,
    )  # fmt: skip
