"""`bench e2e` with the cache in several tiers: side by side, the same bits, room and time."""

from __future__ import annotations

import csv
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model

from reattention_eval.cache import tiers
from reattention_eval.efficiency.cards import card_by_name
from reattention_eval.efficiency.e2e import measure, plot
from reattention_eval.efficiency.e2e.estimate import Effort, Estimate
from reattention_eval.efficiency.e2e.forms import Form, parse_form
from reattention_eval.efficiency.e2e.lines import FIGURES, HEAD, write_lines
from reattention_eval.efficiency.e2e.measure import Bench
from reattention_eval.efficiency.e2e.plot import draw
from reattention_eval.efficiency.e2e.record import E2ERecord, environment, read
from reattention_eval.efficiency.e2e.results import columns, figure_of
from reattention_eval.efficiency.e2e.room import least_bytes, why_not
from reattention_eval.efficiency.e2e.table import markdown
from reattention_eval.efficiency.e2e.words import said
from reattention_eval.efficiency.rates import Rates, rates_of
from reattention_eval.efficiency.shape import read_shape, shape_of
from reattention_eval.efficiency.work import prompt_work
from reattention_eval.errors import ConfigError, DataError

RECORDS = sorted((Path(__file__).parents[2] / "results" / "gpu").glob("e2e-*.json"))
SMALL = "reattention:global_size=4,local_size=64,span_size=4,max_spans=8,chunk_size=32"
LLAMA_8B = read_shape("meta-llama/Llama-3.1-8B")
GIB = 2**30


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(window=2048, layers=2, dtype=torch.float32)


@pytest.fixture(autouse=True)
def short_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values leave the device of prompts that a test can read."""
    monkeypatch.setattr(tiers, "GROUP_TOKENS", 64)
    monkeypatch.setattr(tiers, "LEAST_WINDOW", 64)


def bench(model: Any, path: Path | None = None, **more: Any) -> Bench:
    shape = shape_of(model.config.to_dict()).as_dict()
    about = {"model": "tiny", "weights": "random", "dtype": "float32", "shape": shape}
    record = E2ERecord.begin(path, {**about, "weight_bytes": 1, "device": "cpu"})
    number = record.environment(environment(torch.device("cpu"), "0" * 40))
    effort = more.pop("effort", Effort(repeats=1, decode=4, warm_up=16))
    return Bench(model, record, number, effort, lambda line: None, **more)


def test_tiers_stand_side_by_side(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "e2e.json"
    forms = [
        *parse_form(SMALL).in_tiers(tiers.TIERS),
        *parse_form("whole-flash").in_tiers(["host"]),
    ]
    assert [form.cache for form in forms] == [*tiers.TIERS, "device"]  # its own cache
    one = bench(model, path)
    one.measure([(form, 250) for form in forms])
    assert len(one.record.data["cells"]) == 4
    (column,) = columns(read(path))
    names = [SMALL, f"{SMALL}, values_on_host", f"{SMALL}, host"]
    assert list(column.cells) == [*names, "whole-flash"]
    on_host = [figure_of(column.cells[name], "host_bytes") for name in names]
    assert on_host[0] is None
    assert on_host[1] and on_host[2] and on_host[2] == 2 * on_host[1]
    text = markdown(read(path))
    rows = [line.split(" |")[0] for line in text.splitlines() if line.startswith("| reattention")]
    assert rows[:3] == [f"| {name}" for name in names]
    ratios = [line for line in text.splitlines() if line.startswith("| **fastest full")]
    assert [line.endswith("x** |") for line in ratios] == [True] * 3  # of TTFT alone
    with write_lines(read(path), tmp_path / "e2e.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["cache"] for line in lines] == [*tiers.TIERS, "device"]
    assert float(lines[0]["prompt_rate"]) == pytest.approx(
        250 / float(lines[0]["ttft_seconds"]), rel=1e-3
    )
    assert draw(read(path), tmp_path / "e2e.png") is None  # one length is no line
    longer = read(path)
    longer.data["cells"].append({**longer.data["cells"][0], "tokens": 500})
    picture = draw(longer, tmp_path / "e2e.png")
    assert picture is not None and picture.stat().st_size > 10_000
    # one bit of a tier's answer is enough
    cell = read(path)
    cell.data["cells"][2]["runs"][0]["answer"] = "0"
    with pytest.raises(DataError, match="other answers with the cache in device than in host"):
        markdown(cell)
    cell.data["cells"][2]["runs"][0]["forward_tokens"] = 7  # which rounds otherwise
    assert markdown(cell)


def test_a_long_answer_is_kept_by_thousands(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "THOUSAND", 4)
    monkeypatch.setattr(measure, "WARM_DECODE", 3)
    sizes = iter([9 << 20, 11 << 20, 10 << 20])
    monkeypatch.setattr(Bench, "_allocated", lambda self: next(sizes))
    one = bench(model, effort=Effort(repeats=1, decode=14, warm_up=16))
    one.measure([(parse_form(SMALL), 60)])
    (run,) = one.record.data["cells"][0]["runs"]
    assert len(run["thousands"]) == 3 and run["decode_tokens"] == 14
    for part, seconds in zip(run["thousands"], (20, 25, 20), strict=True):
        part["seconds"] = seconds
    (row,) = [line for line in markdown(one.record).splitlines() if "| 60 | 3,000 |" in line]
    assert row.endswith("| 50.0 | 50.0 | 0.800 | 2.0 |")
    drawn: list[Any] = []
    monkeypatch.setattr(plot, "save_picture", lambda figure, path, dpi: drawn.append(figure))
    assert draw(one.record, Path("answer.png"))
    speeds, memory = (axis.get_lines()[0] for axis in drawn[0].axes)
    assert list(speeds.get_xdata()) == list(memory.get_xdata()) == [1000, 2000, 3000]
    assert list(speeds.get_ydata()) == [50, 40, 50]
    assert list(memory.get_ydata()) == [size / 1024 for size in (9, 11, 10)]
    assert all(axis.get_ylim()[0] == 0 for axis in drawn[0].axes)


def test_a_long_answer_leaves_nothing_on_the_device(model: Any) -> None:
    """Or the memory that is shown to grow would be the measurement's own."""
    before: list[weakref.ref[torch.Tensor]] = []

    class Decoding:
        def decode(self, token: torch.Tensor) -> torch.Tensor:
            assert not any(ref() is not None for ref in before)
            before.append(weakref.ref(token))
            return torch.eye(9)[len(before) % 9][None]

    found = bench(model)._decode(Decoding(), torch.eye(9)[:1], 20)  # type: ignore[arg-type]
    assert len(before) == found["decode_tokens"] + measure.WARM_STEPS == 28


def test_older_cells_are_of_the_device() -> None:
    found = 0
    for record in map(read, RECORDS):
        for cell in [cell for cell in record.data["cells"] if "cache" not in cell]:
            found += 1
            at = cell["form"], cell["tokens"], cell["environment"]
            assert record.cell(*at, "device") is cell
            assert record.cell(*at, "host") != cell
            record.data["cells"].pop()
    assert found > 20


def test_host_memory_is_taken_once(model: Any) -> None:
    """As device memory is: the first run pins, the others show what a tier costs."""
    one = bench(model, effort=Effort(repeats=2, decode=4, warm_up=16))
    forms = parse_form(SMALL).in_tiers(tiers.TIERS)
    one.measure([(form, 250) for form in forms])
    runs = [cell["runs"] for cell in one.record.data["cells"]]
    held = [run.get("host_bytes", 0) for run, _ in runs]
    assert held[0] == 0 < held[1] < held[2] == one._host.taken == one._host.free_bytes
    assert [again["host_taken_bytes"] for _, again in runs] == [0, 0, 0]
    assert sum(run["host_taken_bytes"] for run, _ in runs) > 0  # beside the warm-up's
    for run in (run for pair in runs for run in pair):
        assert (run["host_taken_seconds"] > 0) == (run["host_taken_bytes"] > 0)
        assert run.get("host_pinned", True)
    first = runs[1][0]
    words = said({"runs": [{**first, "host_taken_bytes": 3 << 30}]})
    assert "3.00 GiB of it taken meanwhile" in words and "not pinned" not in words
    assert "not pinned" in said({"runs": [{**first, "host_pinned": False}]})
    assert columns(one.record)  # the same bits in memory that was another's


def test_what_has_no_room_is_said(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    form = parse_form("reattention")
    sizes = {
        tier: least_bytes(Form("", form.method, None, tier), 1 << 20, LLAMA_8B, 0, 2)
        for tier in (*tiers.TIERS, "auto")
    }
    assert sizes["device"] == (128 * GIB, 0)
    assert sizes["values_on_host"].host == 64 * GIB and sizes["host"].host == 128 * GIB
    assert sizes["host"].device < 6 * GIB and sizes["auto"] == (sizes["host"].device, 0)
    assert why_not(sizes["device"], 140 * GIB, 0) is None
    assert "more than 128.0 GiB of 80.0" in str(why_not(sizes["device"], 80 * GIB, None))
    assert "128.0 GiB of host memory and 100.0" in str(why_not(sizes["host"], None, 100 * GIB))
    one = bench(model)
    monkeypatch.setattr(measure, "main_memory", lambda: 1000)
    one.measure([(cell, 250) for cell in parse_form(SMALL).in_tiers(["host", "device"])])
    found = [cell.get("out_of_memory", "ran") for cell in one.record.data["cells"]]
    assert "of host memory" in found[0]
    assert found[1] == "ran"


def test_a_host_that_is_full_is_a_result(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the session, and not arithmetic, refuses it."""
    monkeypatch.setattr("reattention_eval.cache.host_memory.main_memory", lambda: 1000)
    one = bench(model)
    one.measure([(cell, 250) for cell in parse_form(SMALL).in_tiers(["host"])])
    (cell,) = one.record.data["cells"]
    assert "the cache needs" in cell["out_of_memory"] and not cell["runs"]


def test_a_host_that_was_full_is_asked_again(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a later call: others may be gone. What a device lacks is lacking."""
    forms = [(form, 250) for form in parse_form(SMALL).in_tiers(["host", "device"])]
    for place in ("reattention_eval.cache.host_memory", measure.__name__):
        one = bench(model)
        with monkeypatch.context() as patch:
            patch.setattr(f"{place}.main_memory", lambda: 1000)
            patch.setattr(Bench, "_memory", lambda self: 1)
            one.measure(forms[1:])
            patch.undo()
            patch.setattr(f"{place}.main_memory", lambda: 1000)
            one.measure(forms[:1])
        device, host = one.record.data["cells"]
        assert device["out_of_memory"] and host["out_of_memory"] and not host["runs"]
        one.measure(forms)
        assert host["runs"] and not host.get("out_of_memory")
        assert device["out_of_memory"] and not device["runs"]


def test_no_run_begins_that_would_end_too_late(model: Any) -> None:
    """A second for a token of a prompt: one of 40 is too long, one of 20 is not."""
    rates = Rates((0, 0, 0, 0, 0), (0, 0, 0), "")
    shape = shape_of(model.config.to_dict())
    estimate = Estimate(shape, 4, rates)
    assert estimate.run_seconds(parse_form("full"), 40, 4) == 1.0  # around it
    linear = prompt_work(shape, parse_form("full").method, 1).linear
    slow = Estimate(shape, 4, Rates((20 / linear, 0, 0, 0, 0), (0, 0, 0), ""))
    effort = Effort(repeats=2, decode=0, warm_up=1, until=time.monotonic() + 500)
    one = bench(model, effort=effort, estimate=slow)
    one.measure([(parse_form("full"), tokens) for tokens in (20, 40)])
    seconds = slow.run_seconds(parse_form("full"), 40, 0)
    assert seconds is not None and seconds > 500
    assert [len(cell["runs"]) for cell in one.record.data["cells"]] == [2, 0]
    assert one.left == [f"full at 40 (about {seconds:,.0f} s)"]


def test_estimates_are_plan_s(model: Any) -> None:
    rates, card = rates_of("NVIDIA H200"), card_by_name("NVIDIA H200")
    estimate = Estimate(LLAMA_8B, 2, rates, card)

    def seconds(name: str, tier: str = "device", decode: int = 0) -> float:
        form = Form(name, parse_form(name).method, None, tier)
        found = estimate.run_seconds(form, 524_288, decode)
        assert found is not None
        return found

    assert seconds("reattention") == pytest.approx(74 + 1, rel=0.15)
    assert seconds("full") == pytest.approx(125 + 1, rel=0.15)
    assert seconds("streaming_llm") < seconds("reattention") / 3
    assert seconds("reattention") < seconds("reattention", "values_on_host")
    assert seconds("reattention", "host", 64) > seconds("reattention", "values_on_host", 64) + 30
    assert Estimate(LLAMA_8B, 2, None).run_seconds(parse_form("full"), 9, 9) is None
    effort = Effort(repeats=3, patience=60, decode=0, warm_up=8)
    whole = estimate.cell_seconds(parse_form("full"), 524_288, effort, False)
    assert whole == seconds("full")  # longer than the patience: once


def test_a_tier_is_known_or_refused() -> None:
    with pytest.raises(ConfigError, match="unknown cache 'disk'"):
        parse_form("whole-flash").in_tiers(["disk"])
    assert [form.name for form in parse_form("full").in_tiers(["device", "host", "device"])] == [
        "full", "full, host",
    ]  # fmt: skip
    assert set(FIGURES) < set(HEAD)
