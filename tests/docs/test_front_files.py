"""What a builder is told agrees with what is there."""

from __future__ import annotations

import re

import yaml
from code_blocks import ROOT

import reattention_eval

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def recipe(target: str) -> list[str]:
    """The commands of a target."""
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert found, target
    return [line.strip() for line in found[1].splitlines()]


def test_make_has_every_target_that_is_named() -> None:
    for name in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\bmake ([a-z-]+)$", (ROOT / name).read_text(), re.MULTILINE):
            assert recipe(target)
    assert {"demo", "test", "test-fast", "lint", "format", "docs"} <= set(
        re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE)
    )


def test_the_fast_tests_are_there() -> None:
    found = re.search(r"^FAST_TESTS := ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)
    assert found
    paths = found[1].replace("\\\n", " ").split()
    assert len(paths) > 5
    assert all((ROOT / path).exists() for path in paths)


def test_hooks_before_a_commit_are_lints_own_tools() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook["entry"].split()[0] for repo in config["repos"] for hook in repo["hooks"]]
    tools = {line.split()[0].replace("$(BIN)", ".venv/bin") for line in recipe("lint")}
    assert set(hooks) == tools


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation["version"] == reattention_eval.__version__
    assert f"## {citation['version']} ({citation['date-released']})" in changelog
