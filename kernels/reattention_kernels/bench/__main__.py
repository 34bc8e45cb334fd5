"""Check the kernels, time them, print the bars, record them.

python -m reattention_kernels.bench [K1 K3 ...] [--out results/gpu/bars.json] [--commit HASH]
python -m reattention_kernels.bench --others     besides, every attention and form at hand
python -m reattention_kernels.bench K3i K7 --keys FILE [FILE]   on a real model's queries and keys
python -m reattention_kernels.bench --check      recompute every recorded value; needs no GPU
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reattention_kernels.bench import record
from reattention_kernels.bench.rules import KERNEL_BARS, LAYERS, RULES, Bar, value_from, value_of

DEFAULT_OUT = record.REPO / "results" / "gpu" / "bars.json"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="reattention_kernels.bench", description=__doc__)
    parser.add_argument("ids", nargs="*", help="bars to measure; all where none is named")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument(
        "--keys", nargs="+", type=Path, default=[], help="files of scripts/gpu_real_keys.py"
    )
    parser.add_argument("--commit", help="of a copy without Git history")
    parser.add_argument("--others", action="store_true", help="time all forms side by side too")
    parser.add_argument("--no-record", action="store_true")
    parser.add_argument("--check", action="store_true", help="recompute the recorded values")
    options = parser.parse_args(arguments)
    if options.check:
        return check(options.out)
    return measure(options)


def measure(options: argparse.Namespace) -> int:
    try:
        import torch
        import triton
    except ImportError as error:
        print(f"the bench needs Triton and a CUDA device: {error}", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        print("the bench needs a CUDA device; none is visible here.", file=sys.stderr)
        return 2
    from reattention_kernels.bench import card
    from reattention_kernels.bench.checks import check_kernels
    from reattention_kernels.bench.data import load_real_keys

    names = [bar.id for bar in KERNEL_BARS]
    if unknown := set(options.ids) - {*names, "K10"}:
        print(f"no bar {', '.join(sorted(unknown))}; there are: {', '.join(names)}, K10.",
              file=sys.stderr)  # fmt: skip
        return 2
    about: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "date": record.today(),
    }
    try:
        files = [load_real_keys(path) for path in options.keys]
        jobs = planned(options.ids, files)
        if not options.no_record:
            about["commit"], about["source"] = record.source(options.commit)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if refused(card.sharing(), options.no_record):
        return 2
    try:
        # bars on real keys compare the 8-bit form with the exact one themselves
        if any(bar.judged != LAYERS for bar, _, _ in jobs) or "K10" in options.ids:
            keep(options, [{**recalled(check_kernels()), **about}])
        with card.Watch() as watch:
            for job in jobs:
                entry = timed(*job)
                torch.cuda.empty_cache()
                if refused(watch.problems(), options.no_record):
                    return 2
                keep(options, [{**entry, **about}])
    except AssertionError as error:
        print(error, file=sys.stderr)
        return 1
    if options.others:
        from reattention_kernels.bench.others import compare_all

        rows = [{**row, **about} for row in compare_all()]
        if not options.no_record:
            record.save(options.out.with_name("others.json"), rows)
    return 0


def keep(options: argparse.Namespace, entries: list[dict[str, Any]]) -> None:
    if not options.no_record:
        record.save(options.out, entries)


def recalled(raw: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The entry of K10.

    Raises:
        AssertionError: a kernel is wrong here, so that nothing is timed.
    """
    share = recall(raw)
    print(f"K10  recall {share:.6f}", flush=True)
    if share < 1:
        raise AssertionError(f"not timed: the kernels are wrong here: {raw}")
    return {"id": "K10", "value": share, "unit": "share", "shape": "all", "raw": raw}


def timed(bar: Bar, measure_kind: Callable[[str], dict[str, Any]], shape: str) -> dict[str, Any]:
    """The entry of a bar.

    Raises:
        AssertionError: forms that should agree do not, or a share is more than there is.
    """
    raw = {kind: measure_kind(kind) for kind in bar.judged}
    value = value_of(bar, raw)
    verdict = "met" if bar.met(value) else "NOT MET"
    print(
        f"{bar.id:4} {value:6.3f} {bar.unit:5} bar {bar.bar} {verdict:7} {bar.what}  "
        + "; ".join(f"{kind}: {shown(found)}" for kind, found in raw.items()),
        flush=True,
    )
    if bar.impossible(value):
        raise AssertionError(
            f"{bar.id}: {value:.2f} of the ceiling is more than there is (at most {bar.possible}): "
            "the card is not ours alone."
        )
    return {"id": bar.id, "value": value, "unit": bar.unit, "shape": shape, "raw": raw}


def planned(ids: list[str], files: list[Any]) -> list[tuple[Bar, Any, str]]:
    """(bar, how it is measured, shape) of the bars to measure.

    Raises:
        ValueError: a bar that was asked for needs a file of queries and keys that was not given.
    """
    from reattention_kernels.bench.bars import MEASURES, SHAPES, real_measure

    jobs = []
    for bar in KERNEL_BARS:
        if ids and bar.id not in ids:
            continue
        if bar.judged != LAYERS:
            jobs.append((bar, MEASURES[bar.id], SHAPES[bar.id]))
        elif found := real_measure(bar.id, files):
            jobs.append((bar, *found))
        elif ids:
            raise ValueError(
                f"{bar.id} ({bar.what}) needs --keys with a file of that length; make it with "
                "scripts/gpu_real_keys.py."
            )
        else:
            print(f"{bar.id:4} left out: it needs --keys", flush=True)
    return jobs


def refused(problems: list[str], anyway: bool) -> bool:
    """Says what is wrong with the card; True where nothing may be recorded for it."""
    if problems:
        print(f"the card is shared or slowed down: {'; '.join(problems)}.", file=sys.stderr)
    return bool(problems) and not anyway


def shown(raw: dict[str, Any]) -> str:
    numbers = {name: x for name, x in raw.items() if "work" not in name and name != "model"}
    return " ".join(
        f"{name} {found:.4g}" if isinstance(found, float) else f"{name} {found}"
        for name, found in numbers.items()
    )


def recall(raw: dict[str, dict[str, Any]]) -> float:
    winners = sum(found["winners"] for found in raw.values())
    return 1 - sum(found["misses"] for found in raw.values()) / winners


def check(path: Path) -> int:
    """Every value from its raw numbers again, and the source of every entry."""
    entries = record.load(path)
    if not entries:
        print(f"nothing is recorded in {path}.", file=sys.stderr)
        return 1
    wrong = 0
    for entry in entries:
        again = recall(entry["raw"]) if entry["id"] == "K10" else value_from(entry)
        same = abs(again - entry["value"]) <= 1e-9 * max(1.0, abs(again))
        traced = record.verify_source(entry)
        bar = RULES.get(entry["id"])
        met = "" if bar is None else ("met" if bar.met(again) else "not met")
        if bar is not None and bar.impossible(again):
            met, same = "IMPOSSIBLE", False
        wrong += (not same) + (traced is False)
        said = {True: "source matches", False: "SOURCE DIFFERS", None: "commit unknown here"}
        print(f"{entry['id']:4} {again:.4f} {entry['unit']:5} {met:7} "
              f"{'value follows' if same else 'VALUE DIFFERS'}, {said[traced]}")  # fmt: skip
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
