"""Names as earlier versions gave them, so that `-r` finds what an old run folder holds.

data/names.json was written by commit a339f2b, before benchmarks were objects.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_benchmarks import write_benchmarks

from reattention_eval.harness.compose import plan_jobs

NAMES = json.loads((Path(__file__).parent / "data" / "names.json").read_text())
SMALL = dict(abbr="small", path="org/small", window=8192, dtype="float32")
LARGE = dict(
    abbr="large", path="org/large", window=131072, dtype="float32", chat_template=True,
    method_settings=dict(reattention=dict(local_size=8192, max_spans=256)),
)  # fmt: skip
METHODS = [dict(type="full"), dict(type="reattention")]
PLANS: dict[str, dict[str, Any]] = {
    "longbench": dict(benchmark="longbench", lengths=[31500], tasks=["qasper", "samsum"]),
    "samples": dict(benchmark="longbench", lengths=[7500], tasks=["trec"], samples=3),
    "leval": dict(benchmark="leval", lengths=[31500], tasks=["tpo", "sci_fi"]),
    "infinitebench": dict(
        benchmark="infinitebench", lengths=[63500, 127500], tasks=["code_run"],
        prompts="yarn-mistral",
    ),
    "needle": dict(benchmark="needle", lengths=[4096], depths=[0, 50, 100], repeats=2),
    "needlebench": dict(
        benchmark="needle", style="needlebench", lengths=[32000], depths=[50], repeats=1,
        haystack="long", max_out_len=32, chat_template=False,
    ),
    "parallel": dict(
        benchmark="needle", style="parallel", lengths=[20000], depths=[0, 100], repeats=5,
        samples=4, max_out_len=250,
    ),
    "ruler": dict(benchmark="ruler", lengths=[4096], tasks=["vt", "qa_1"], samples=10),
}  # fmt: skip


@pytest.mark.parametrize("plan", PLANS)
def test_names_are_those_of_earlier_runs(
    plan: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REATTENTION_DATA", str(write_benchmarks(tmp_path / "data")))
    monkeypatch.setenv("REATTENTION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REATTENTION_DRY_RUN", "1")
    jobs = plan_jobs([SMALL, LARGE], METHODS, [PLANS[plan]])
    assert sorted("/".join(job.names) for job in jobs) == NAMES[plan]
