"""What a method attended to when a sample went wrong: read and shown from `harness.selected`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reattention_eval.errors import DataError
from reattention_eval.json_text import read_object
from reattention_eval.pictures import save_picture
from reattention_eval.report.page.plots import show_attended
from reattention_eval.report.shown import visible
from reattention_eval.report.tables import markdown_text

FOLDER = "selected"
Ranges = Sequence[tuple[int, int]]
_PROMPT, _ANSWER = 400, 200  # characters shown
_RIGHT, _ANSWERED = "#d55e00", "#cc79a7"  # told apart on cividis, with and without colour vision


@dataclass(frozen=True)
class Selected:
    """One failing sample, run once more.

    `layers`: what each layer attended to from the prompt's last chunk, of `last_chunk` tokens, as
    ranges of positions [first, last); a layer that attended to all is absent. `answers`,
    `answered`: where the right answers, and what was answered, stand in the prompt. `steps`: for
    each token of the right answer, given those before it, the token (`right`), what the model
    would have said (`chosen`), and how many layers then attended to a right answer's place
    (`reached`). `again`: its answer this time. `others`: other methods' prediction and score, by
    the method's name.
    """

    model: str
    method: str
    dataset: str
    index: int
    n_tokens: int
    last_chunk: int
    prompt_ends: str
    reference: Any
    prediction: str
    again: str
    score: float | None
    others: Mapping[str, Mapping[str, Any]]
    layers: dict[int, Ranges]
    answers: Ranges
    answered: Ranges
    steps: Sequence[Mapping[str, Any]]

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.dataset}-{self.index}"

    @property
    def reached(self) -> list[int]:
        """Layers that attended to a right answer whole."""
        return [layer for layer, view in self.layers.items() if held(view, self.answers)]


def held(view: Iterable[tuple[int, int]], places: Ranges) -> bool:
    """Whether one of the places lies in one range of the view."""
    return any(first <= a and b <= last for first, last in view for a, b in places)


def read_selected(work_dir: Path) -> list[Selected]:
    """What `harness.selected` left in a run's folder.

    Raises:
        DataError: a damaged file.
    """
    found = []
    for path in sorted((work_dir / FOLDER).glob("*/*.json")):
        try:
            data = read_object(path)
            data["layers"] = {int(k): _ranges(v) for k, v in data["layers"].items()}
            data |= {key: _ranges(data[key]) for key in ("answers", "answered")}
            found.append(Selected(**data))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is damaged ({error}); delete it and make it anew.") from error
    return found


def _ranges(value: Any) -> Ranges:
    return [(int(first), int(last)) for first, last in value]


def write_selected(samples: Sequence[Selected], folder: Path) -> list[Path]:
    """selected.md and a picture a sample into `folder`; what was written, nothing of no samples.

    Raises:
        ImportError: matplotlib is absent.
    """
    if not samples:
        return []
    page, pictures = folder / "selected.md", []
    parts = ["# What was attended to where an answer was wrong\n"]
    for sample in samples:
        pictures.append(folder / f"selected-{sample.name}.png")
        save_picture(draw_selected(sample), pictures[-1], dpi=130)
        parts += _sample(sample, pictures[-1].name)
    page.write_text("\n".join(parts), encoding="utf-8")
    return [page, *pictures]


def _sample(sample: Selected, picture: str) -> Iterator[str]:
    yield f"## {sample.model}, {sample.method}: {sample.dataset}, sample {sample.index}\n"
    yield f"The prompt, {sample.n_tokens:,} tokens, ends:\n"
    ends = sample.prompt_ends[-_PROMPT:].split("\n")
    yield "".join(f"> {markdown_text(line)}\n" for line in ends if line.strip())
    yield "| | answer | score | stands at token |\n| --- | --- | ---: | --- |"
    reference = sample.reference
    right = reference if isinstance(reference, str) else ", ".join(map(str, reference))
    yield f"| right | {_inline(right)} | | {_places(sample.answers, sample.n_tokens)} |"
    said = _places(sample.answered, sample.n_tokens)
    yield f"| {sample.method} | {_inline(sample.prediction)} | {_score(sample.score)} | {said} |"
    for name, other in sample.others.items():
        yield f"| {name} | {_inline(str(other['prediction']))} | {_score(other['score'])} | |"
    yield ""
    if sample.again != sample.prediction:
        yield f"Run once more it answered {_inline(sample.again)}, so rounding decides here.\n"
    layers, reached = len(sample.layers), sample.reached
    yield f"![Positions attended to, layer by layer]({picture})\n"
    yield (
        f"Each row is a layer, and how bright a stretch of the prompt is says how much of it the "
        f"prompt's last chunk ({sample.last_chunk:,} tokens, which choose together) attended to; "
        "the answer's first token comes from there. "
        + (
            f"The right answer's place was attended to in {len(reached)} of {layers} layers"
            f"{': ' + ', '.join(map(str, reached)) if 0 < len(reached) < layers else ''}.\n"
            if sample.answers
            else "The right answer does not stand in the prompt word for word.\n"
        )
    )
    if sample.steps:
        yield (
            "Given the right answer token by token, which tokens the model would have said, and "
            "how many layers attended to the answer's place:\n"
        )
        yield "| right | the model | layers |\n| --- | --- | ---: |"
        for step in sample.steps:
            words = [f"`{_token(step[key])}`" for key in ("right", "chosen")]
            yield f"| {words[0]} | {words[1]} | {step['reached'] if sample.answers else '-'} |"
        yield ""


def _places(places: Ranges, tokens: int) -> str:
    """The first few, and how deep they lie."""
    shown = [f"{first:,} ({first / tokens:.0%})" for first, _ in places[:3]]
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    return ", ".join(shown) + more if shown else "nowhere"


def _score(score: Any) -> str:
    return "-" if score is None or math.isnan(score) else f"{score:.1f}"


def _inline(text: str) -> str:
    return markdown_text(visible(" ".join(text.split()), _ANSWER)) or "(nothing)"


def _token(text: str) -> str:
    spelled = visible(text).replace("\n", "\\n").replace("\t", "\\t").replace("`", "'")
    return spelled.replace("|", "\\|") or " "


def draw_selected(sample: Selected) -> Any:
    """Layers down, the prompt across, as a matplotlib figure: brightness is the share attended to.

    Raises:
        ImportError: matplotlib is absent.
    """
    from matplotlib.figure import Figure

    rows = max(sample.layers) + 1
    everything = [(0, sample.n_tokens)]
    figure = Figure(figsize=(9.2, 1.9 + 0.13 * rows), layout="constrained")
    axis = figure.subplots()
    views = [sample.layers.get(layer, everything) for layer in range(rows)]
    image = show_attended(axis, views, sample.n_tokens)
    for places, words, colour, line in (
        (sample.answered, "what was answered", _ANSWERED, ":"),
        (sample.answers, "right answer", _RIGHT, "--"),
    ):
        for first, _ in places:
            axis.axvline(first, color=colour, linestyle=line, linewidth=1.5, label=words)
    if sample.answers:
        edge = [sample.n_tokens * 1.008] * len(sample.reached)
        axis.plot(
            edge, sample.reached, "o", color=_RIGHT, markersize=3, clip_on=False,
            label="layers that attended to the right answer",
        )  # fmt: skip
        axis.set_xlim(0, sample.n_tokens)
    axis.set_xlabel("position in the prompt, tokens")
    axis.xaxis.set_major_formatter(lambda place, _: f"{place:,.0f}")
    axis.set_ylabel("layer")
    axis.set_title(
        f"{sample.model}, {sample.method}: {sample.dataset}, sample {sample.index}\n"
        f"attended to from the last {sample.last_chunk:,} of {sample.n_tokens:,} tokens",
        fontsize=9, loc="left", parse_math=False,
    )  # fmt: skip
    figure.colorbar(image, label="share attended to", pad=0.03, aspect=30)
    named = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    if named:
        axis.legend(
            named.values(), named, loc="upper left", bbox_to_anchor=(0, -0.13), ncols=3, fontsize=8,
            borderaxespad=0,
        )  # fmt: skip
    return figure
