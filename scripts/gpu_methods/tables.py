"""Tables, plots and records of what run.sh left: all methods, and each group of the ablation.

    python scripts/gpu_methods/tables.py MODEL WORK_DIR results/methods/NAME results/ablation
    python scripts/gpu_methods/tables.py MODEL WORK_DIR results/methods/NAME --lanes second
    python scripts/gpu_methods/tables.py MODEL WORK_DIR results/methods/NAME/times --times

Cells of the plans that were not run are empty in them; the same command, after more was run, makes
them anew.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO))

from configs.datasets import ablation as varied  # noqa: E402
from configs.datasets import methods_table as table  # noqa: E402
from configs.methods.ablation import ablations  # noqa: E402
from configs.methods.equal_budgets import methods  # noqa: E402
from reattention_eval.harness.compose import Job, plan_jobs  # noqa: E402
from reattention_eval.harness.compose.begun_for import of_jobs  # noqa: E402
from reattention_eval.harness.standalone import model_entry, read_plans  # noqa: E402
from reattention_eval.methods import build_method  # noqa: E402
from reattention_eval.report import build_joint_report  # noqa: E402
from reattention_eval.report.curve import draw_curve  # noqa: E402
from reattention_eval.report.expected import note_expected  # noqa: E402

LANES = ("main", "eviction", "far")
TIMES = ("times", "times_eviction")
KINDS = ("predictions", "records", "results")
# groups that one picture sets side by side: other rules of choosing as many keys
RULES = (
    "last_tokens", "per_kv_head", "votes", "span_grid", "vote_memory", "layer_slope", "together",
)  # fmt: skip
# whose needles one picture shows, depth by depth
DRAWN = [
    build_method({"type": name, "budget_tokens": 16416})
    for name in ("streaming_llm", "reattention", "reattention_plus")
]
Names = tuple[str, str]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="as for run.sh")
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("table", type=Path, help="folder of the table of all methods")
    parser.add_argument(
        "ablation", type=Path, nargs="?", help="folder that holds one for each group"
    )
    parser.add_argument("--lanes", nargs="+", default=LANES, help="whose plans are the table's")
    parser.add_argument(
        "--times", action="store_true", help="of processes that had their GPU to themselves"
    )
    parser.add_argument("--dtype", default="bfloat16", help="of the run; names depend on it")
    asked = parser.parse_args()
    model = {**model_entry(asked.model), "dtype": asked.dtype}
    planned = jobs(model, methods, plans_of(TIMES if asked.times else asked.lanes))
    if asked.times:
        made(asked.work_dir, planned, asked.table, by_family=True, times=True)
        for drawn_file in asked.table.glob("*.png"):  # three questions a cell
            drawn_file.unlink()
        return 0
    of_table = jobs(model, methods, every_plan())
    shown = {
        names: job
        for names, job in of_table.items()
        if names in planned or was_run(asked.work_dir, names)
    }
    made(asked.work_dir, shown, asked.table, by_family=True)
    drawn = {
        names: job
        for names, job in shown.items()
        if job.benchmark == "needle" and build_method(job.model["method"]) in DRAWN
    }
    picture(asked.work_dir, drawn, "heatmap.png", asked.table / "needles.png")
    if asked.ablation:
        ablation(asked.work_dir, model, asked.ablation)
    return 0


def ablation(work_dir: Path, model: Any, into: Path) -> None:
    """A folder for each group that was run, and one picture of what chooses as many keys."""
    rules: dict[Names, Job] = {}
    for group, members in ablations.items():
        cells = jobs(model, members, varied.plans)
        rules |= cells if group in RULES else {}
        if any(was_run(work_dir, cell) for cell in cells):
            made(work_dir, cells, into / group)
            # two questions a square
            (into / group / "heatmap.png").unlink(missing_ok=True)
    picture(work_dir, rules, "at_length.png", into / "rules.png", by_family=True)


def picture(
    work_dir: Path, cells: Mapping[Names, Job], name: str, into: Path, *, by_family: bool = False
) -> None:
    """One of a report's on these cells, where it draws it."""
    into.unlink(missing_ok=True)
    if not cells:
        return
    with tempfile.TemporaryDirectory() as folder:
        made(work_dir, cells, Path(folder), by_family=by_family)
        if (Path(folder) / name).is_file():
            shutil.copyfile(Path(folder) / name, into)


def every_plan() -> list[dict[str, Any]]:
    """Of the table of all methods."""
    return [*table.inside, *table.documents, *table.beyond, *table.as_is, *table.million]


def plans_of(lanes: Iterable[str]) -> list[dict[str, Any]]:
    """Of run.sh's lanes."""
    here = Path(__file__).parent
    return [plan for lane in lanes for plan in read_plans(here / f"{lane}.py")]


def jobs(model: Any, methods: Any, plans: Iterable[Mapping[str, Any]]) -> dict[Names, Job]:
    """Each once; a plan may list what an earlier one has."""
    return {job.names: job for plan in plans for job in plan_jobs([model], methods, [plan])}


def was_run(work_dir: Path, cell: Names) -> bool:
    """Whether there are samples of it, if not all."""
    return (work_dir / "records" / cell[0] / f"{cell[1]}.jsonl").is_file()


def made(
    work_dir: Path,
    cells: Mapping[Names, Job],
    into: Path,
    *,
    by_family: bool = False,
    times: bool = False,
) -> None:
    """Report, curve and records of these cells alone; `times`, in the place of the curve: no
    process shared a GPU."""
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder)
        note_expected(part, cells, *of_jobs(cells.values()))
        for model, dataset in cells:
            for kind in KINDS:
                for file in (work_dir / kind / model).glob(f"{dataset}.*json*"):  # no locks
                    to = part / kind / model / file.name
                    to.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(file, to)
        build_joint_report([part], into, by_family=by_family, times=times)
        if not times:
            draw_curve([part], into)
        with tarfile.open(into / "records.tar.xz", "w:xz") as archive:
            for kind in KINDS:
                archive.add(part / kind, kind, filter=of_nobody)


def of_nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0  # the same records are the same archive
    return member


if __name__ == "__main__":
    raise SystemExit(main())
