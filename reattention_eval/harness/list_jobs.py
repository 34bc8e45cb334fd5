"""The jobs of configurations, listed without running or loading anything.

    python -m reattention_eval.harness.list_jobs configs/eval_paper.py
    python -m reattention_eval.harness.list_jobs --check configs/eval_*_reattn.py

A line a job: model with method, and dataset. `--check` only makes sure that the configurations can
be read and that their data are there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from reattention_eval.errors import ReAttentionError
from reattention_eval.harness.compose.run_variables import DRY_RUN, variables


def jobs(path: Path) -> Iterator[tuple[str, str]]:
    """(model with method, dataset without its hash) of each cell of a configuration's tables.

    Raises:
        ReAttentionError: what the configuration itself raises.
    """
    from reattention_eval.harness.configuration import groups_of, read_configuration

    for group in groups_of(read_configuration(path)):
        for model in group["models"]:
            for dataset in group["datasets"]:
                yield str(model["abbr"]), str(dataset["abbr"]).rsplit("-", 1)[0]


def main(words: Sequence[str] | None = None) -> int:
    """Status 1, with the sentence that says why, if a configuration cannot be read."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("configs", type=Path, nargs="+")
    parser.add_argument("--check", action="store_true", help="list nothing; data must be there")
    asked = parser.parse_args(words)
    settings = {} if asked.check else {DRY_RUN: "1"}
    failed = False
    for path in asked.configs:
        try:
            with variables(**settings):
                found = list(jobs(path))
        except ReAttentionError as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            failed = True
            continue
        if not asked.check:
            for model, dataset in found:
                print(f"{model}\t{dataset}")
            models = len({model for model, _ in found})
            print(f"# {path.name}: {len(found)} jobs, {models} models with method")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
