"""What stands in the page, and the policy under which a browser shows it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import reattention_eval
from reattention_eval.errors import ConfigError
from reattention_eval.report.frame import Frame
from reattention_eval.report.heatmap import heatmap
from reattention_eval.report.needles import form_title
from reattention_eval.report.page.plots import (
    attended,
    average_lines,
    cost_lines,
    draw_attended,
    draw_lines,
    needle_depth,
    score_lines,
    windows_of,
)
from reattention_eval.report.page.sample_lists import sample_lists
from reattention_eval.report.page.svg import drawing, inline_svg
from reattention_eval.report.places import places
from reattention_eval.report.run import Cell
from reattention_eval.report.shown import visible
from reattention_eval.report.tables import Grid
from reattention_eval.whole_file import write_whole_text

if TYPE_CHECKING:
    from markupsafe import Markup

HERE = Path(__file__).parent
INSTALL = 'pip install "reattention-eval[report]"'


@dataclass(frozen=True)
class Picture:
    """An <svg> and what is said of it."""

    title: str
    words: str
    svg: Markup


def write_page(
    path: Path,
    names: Sequence[str],
    frame: Frame,
    forms: Mapping[str, Sequence[Cell]],
    grids: Mapping[str, Grid],
    words: Sequence[str],
    problems: Sequence[str],
) -> Path:
    """Write the page.

    Args:
        names: of the runs.
        forms: cells of the needle tests by form; "" holds other datasets.
        grids: tables by heading.
        words: what the reader is looking at.

    Raises:
        ConfigError: jinja2 or matplotlib is absent.
    """
    try:
        import matplotlib  # noqa: F401
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise ConfigError(
            f"the page needs {error.name}, which is not installed: {INSTALL}"
        ) from None

    def shown(value: Any) -> Any:
        return value if isinstance(value, Markup) else visible(str(value))

    def identifier(text: str) -> str:
        return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, finalize=shown, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["identifier"] = identifier
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    text = environment.get_template("page.html.j2").render(
        names=names,
        version=reattention_eval.__version__,
        policy=content_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        words=words,
        problems=problems,
        grids=grids,
        pictures=pictures(frame, forms),
        lists=sample_lists(frame),
        rows=[_about(row.model, row.method, row.cells.values()) for row in frame.rows],
    )
    write_whole_text(path, text)
    return path


def content_policy(style: str, script: str) -> str:
    """Nothing is loaded, and nothing runs but the page's own style and script, known by hash."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (style, script)
    )
    return (
        f"default-src 'none'; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def pictures(frame: Frame, forms: Mapping[str, Sequence[Cell]]) -> list[Picture]:
    """All that the run has something for."""
    from markupsafe import Markup

    made: list[Picture] = []
    kinds = {
        form_title(form) or "datasets": list(dict.fromkeys(cell.dataset for cell in own))
        for form, own in forms.items()
    }

    def add(title: str, words: str, figure: Any) -> None:
        name = f"picture{len(made)}"
        made.append(Picture(title, words, Markup(inline_svg(figure, name, title))))

    with drawing("reattention-eval"):
        for title, datasets in kinds.items():
            if figure := heatmap(frame, datasets):
                add(
                    f"{title}: found by depth and length",
                    "A square is the mean over the needles at this depth in prompts of this "
                    "length; the dashed line is where the trained window ends.",
                    figure,
                )
            if charts := score_lines(frame, datasets):
                add(
                    f"{title}: score against length",
                    "With 95 % intervals; the dotted line is the trained window.",
                    draw_lines(charts, windows_of(frame)),
                )
        if charts := average_lines(frame):
            add(
                "benchmarks: score against length",
                "The average of all tasks with its 95 % interval, where no task is missing.",
                draw_lines(charts, windows_of(frame)),
            )
        for dataset, place in places(frame.cells).items():
            kinds.setdefault(place.benchmark, []).append(dataset)
        for title, datasets in kinds.items():
            if charts := cost_lines(frame, datasets):
                add(
                    f"{title}: time and memory against length",
                    "Medians over the prompts of a length, with 95 % intervals from six prompts "
                    "on; the time to the first token is of prompts that were read whole.",
                    draw_lines(charts, windows_of(frame)),
                )
        dataset, samples = attended(frame)
        if samples:
            cell, index = next(iter(samples.values()))
            needle = " The dashed line is the needle, by its depth."
            add(
                f"what a prompt's last chunk attended to: {dataset}",
                f"Sample {index}: layers down, the prompt across; bright is what was attended to."
                + needle * (needle_depth(cell, index) is not None),
                draw_attended(samples),
            )
    return made


def _about(model: str, method: str, cells: Any) -> dict[str, Any]:
    """What the manifests of a row say: model, method and environment once, then the datasets."""
    known = [cell for cell in cells if cell.manifest]
    first = known[0].manifest if known else {}
    processes: dict[str, None] = {}
    for cell in known:
        listed = cell.manifest.get("environment")
        for process in listed if isinstance(listed, list) else []:
            if isinstance(process, dict):
                kept = {k: v for k, v in process.items() if k not in ("started", "samples_to_run")}
                processes[_json(kept)] = None
    return {
        "title": f"{model}: {method}",
        "model": _json(first.get("model")),
        "method": _json(first.get("method")),
        "processes": list(processes),
        "datasets": [
            {**dict.fromkeys(("n", "length", "chat_template", "fingerprint"), ""),
             **cell.manifest.get("dataset", {}), "abbr": cell.dataset}
            for cell in cells
        ],
    }  # fmt: skip


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, default=str)
