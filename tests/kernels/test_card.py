"""Signs that a card is shared or slowed down, from what nvidia-smi prints."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from reattention_kernels.bench import card
from reattention_kernels.bench.card import Watch, signs_of_sharing, slowed

GIB = 2**30


def test_a_card_of_our_own_has_no_sign() -> None:
    assert signs_of_sharing(GIB // 2, "4711, python", "0") == []
    assert signs_of_sharing(GIB // 2, "", "3") == []  # a container may list nothing
    assert signs_of_sharing(0, None, None) == []  # no nvidia-smi
    assert signs_of_sharing(0, None, "[N/A]") == []


def test_a_neighbour_is_seen_by_its_process_its_memory_or_its_work() -> None:
    assert "2 processes" in signs_of_sharing(0, "4711, python\n4712, vllm", "0")[0]
    assert "40.0 GiB of the card are held by others" in signs_of_sharing(40 * GIB, "", "0")[0]
    assert "97 % busy" in signs_of_sharing(0, "4711, python", "97")[0]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("0x0000000000000001", []),  # idle
        ("0x0000000000000004", []),  # at its power limit, as a matrix product is meant to be
        ("0x0000000000000000", []),
        ("[N/A]", []),
        ("0x0000000000000040", ["hardware thermal slowdown"]),
        ("0x00000000000000a4", ["software thermal slowdown", "power brake"]),
        ("0x0000000000000048", ["hardware slowdown", "hardware thermal slowdown"]),
    ],
)
def test_reasons_of_a_lower_clock(line: str, found: list[str]) -> None:
    assert slowed(line) == found


def test_what_was_seen_once_is_not_forgotten() -> None:
    watch = Watch()  # outside a block it asks nobody
    for line in ("0x1", "0x20", "0x4", "0x20"):
        watch.look(line)
    assert watch.problems() == ["software thermal slowdown"]


def test_a_watch_reads_what_nvidia_smi_prints_while_the_block_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "nvidia-smi"
    script.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        "*clocks_event_reasons*) exit 6 ;;\n"  # an older driver knows the older name
        "*--loop-ms=*) echo 0x1; echo 0x8; exec sleep 60 ;;\n"
        "*clocks_throttle_reasons*) echo 0x4 ;;\n"
        '*compute-apps*) printf "1, a\\n2, b\\n" ;;\n'
        "esac\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(card, "_uuid", lambda: "GPU-0")
    with Watch() as watch:
        assert watch.known
        deadline = time.monotonic() + 20
        while len(watch.problems()) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert watch.problems()[0] == "hardware slowdown"
        assert "2 processes" in watch.problems()[1]
        lines = watch._lines
    assert lines is not None
    assert lines._process.returncode is not None  # ended with the block


def test_without_nvidia_smi_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(card, "_uuid", lambda: "GPU-0")
    with Watch() as watch:
        assert not watch.known
        assert watch.problems() == []
