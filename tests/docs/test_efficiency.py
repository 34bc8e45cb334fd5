"""docs/efficiency.md holds the tables of the records in results/gpu, and no figure beside them."""

from __future__ import annotations

import re

from code_blocks import ROOT

from reattention_eval.efficiency.e2e.record import read
from reattention_eval.efficiency.e2e.table import insert, markdown

PAGE = (ROOT / "docs/efficiency.md").read_text(encoding="utf-8")


def test_every_table_follows_from_its_record() -> None:
    folder = ROOT / "results/gpu"
    files = [*folder.glob("e2e-*.json"), *folder.glob("long-answer.json")]
    records = {held.name: held for held in map(read, files)}
    places = re.findall(r"<!-- e2e (.*?) -->", PAGE)
    assert set(records) <= set(places)
    for name in places:
        assert insert(PAGE, name, markdown(records.get(name))) == PAGE, name
