"""README.md's table of methods and docs/methods.md's say what the registry says."""

from __future__ import annotations

import re

from code_blocks import ROOT

from reattention_eval.methods import list_methods, method_class
from reattention_eval.methods.base import EVICTION

OWN = [name for name in list_methods() if method_class(name).__module__.startswith("reattention_")]


def rows(text: str, header: str) -> list[list[str]]:
    """Cells of the table below the header line."""
    lines = text[text.index(header) :].splitlines()[2:]
    end = next(i for i, line in enumerate(lines) if not line.startswith("|"))
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines[:end]]


def test_the_readme_names_every_method_as_it_is():
    table = rows((ROOT / "README.md").read_text(encoding="utf-8"), "| method | kind |")
    named = []
    for names, *said in table:
        for name in re.findall(r"`(\w+)`", names):
            named.append(name)
            cls = method_class(name)
            assert said == [
                cls.family,
                cls.budget_meaning or "no budget: all keys",
                "the budget's" if cls.family == EVICTION else "all",
                cls.needs,
            ], name
    assert sorted(named) == sorted(OWN)


def test_the_docs_have_a_row_for_every_method():
    table = rows((ROOT / "docs/methods.md").read_text(encoding="utf-8"), "| key | what it does |")
    assert sorted(row[0].strip("`") for row in table) == sorted(OWN)
    for row in table:
        cited = re.findall(r"\d{4}\.\d{5}", method_class(row[0].strip("`")).source)
        assert all(number in row[2] for number in cited), row[0]


def test_the_api_pages_have_every_method():
    page = (ROOT / "docs/api/methods.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: reattention_eval\.(?:methods\.)?(\w+)$", page, re.MULTILINE)
    assert {method_class(name).__name__ for name in OWN} <= set(named)
