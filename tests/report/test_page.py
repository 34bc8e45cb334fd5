"""report.html: whole without scripts, nothing from outside, nothing that anybody wrote runs."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from runs_by_hand import leave_cell
from typer.testing import CliRunner

from reattention_eval.cli import app
from reattention_eval.report import build_report
from reattention_eval.report.frame import make_frame
from reattention_eval.report.page.plots import BINS, stretch_shares
from reattention_eval.report.page.sample_lists import sample_lists
from reattention_eval.report.run import read_run
from reattention_eval.report.shown import visible

HOSTILE = [
    "<script>document.title = 1</script>", '<img src=x onerror="alert(1)">', "nul \0 in it",
    "\x1b[2J\x1b]0;owned\x07", "a\u2028b\u2029c\x85d", "\u202egnp.exe",
    "]]></svg><style>*{}</style>", "{{ 7 * 7 }}{% raw %}", "[red]markup[/red]", "</script>",
    "'\"><a href=javascript:alert(1)>x</a>", "<!-- ", "half \ud800 of a pair",
]  # fmt: skip
VOID = {"meta", "input", "br", "img", "link"}


class Page(HTMLParser):
    """What a browser without scripts makes of the page, and a check that tags are closed."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def needles(folder: Path, method: str, length: int, answers: list[str], **cell: Any) -> None:
    details = [
        {"depth": 50.0 * (i % 3), "length": length, "accuracy": 100.0 * (i % 2), "repeat": i // 3,
         "score": 100.0 * (i % 2), "answer_nll": 1.0 + i % 5, "prediction": answer,
         "reference": HOSTILE[i % len(HOSTILE)]}
        for i, answer in enumerate(answers)
    ]  # fmt: skip
    records = [
        {"index": i, "prediction": answer, "n_tokens": length, "prefill_seconds": length / 1000,
         "decode_tokens_per_second": 20.0 + i, "peak_bytes": length << 18,
         "attended": [[0, 32, 900, 1000, length - 100, length], []] if i == 1 else None}
        for i, answer in enumerate(answers)
    ]  # fmt: skip
    facts = {"benchmark": "needle", "task": "magic_number", "length": length, "fingerprint": "f"}
    result = {
        key: sum(d[key] for d in details) / len(details)
        for key in ("accuracy", "score", "answer_nll")
    }
    leave_cell(
        folder, method, f"needle-{length}", details, facts=facts, records=records,
        result={**result, "n": len(details)}, **cell,
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("run")
    for method in ("full", "reattention"):
        for length in (4096, 8192, 16384):
            needles(folder, method, length, ["an answer"] * 7)
        (folder / "results" / f"Tiny-{method}" / "needle-16384.json").unlink()
    records = folder / "records" / "Tiny-full" / "needle-16384.jsonl"
    records.write_text(records.read_text() + '{"index": 3, "error": "NaN logits"}\n')
    report = build_report(folder, page=True)
    assert report.files[-1].name == "report.html"
    return Page(report.files[-1])


def test_every_table_is_there_without_scripts(page: Page) -> None:
    rows = sum(tag == "tr" for tag, _ in page.tags)
    assert len(page.all("table")) >= 6 and rows > 20
    cells = re.sub(r"</?(td|strong|span)[^>]*>", "", page.source)
    assert "42.9 [16, 75] (n=7)" in cells
    states = {attrs.get("class") for attrs in page.all("td")}
    assert {"missing", "failed"} <= states
    values = [float(v) for attrs in page.all("td") if (v := attrs.get("data-value"))]
    assert values.count(300 / 7) == 8  # accuracy and score of four cells


def test_every_picture_is_there(page: Page) -> None:
    labels = " ".join(str(attrs["aria-label"]) for attrs in page.all("svg"))
    for words in ("found by depth", "score against length", "time and memory", "attended to"):
        assert words in labels
    ids = [str(attrs["id"]) for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    for svg in re.findall(r"<svg.*?</svg>", page.source, re.DOTALL):
        root = ElementTree.fromstring(svg)
        for element in root.iter():
            assert "style" not in element.attrib
            assert element.attrib.get("{http://www.w3.org/1999/xlink}href", "#")[:5] in (
                *(i for i in ("data:",)), *("#pict",), "#",
            )  # fmt: skip
        assert "currentColor" in svg


def test_nothing_is_loaded_and_only_the_page_s_own_script_runs(page: Page) -> None:
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        (attrs,) = page.all(tag)
        assert attrs == {}
        (text,) = page.text[tag]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    for _, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on") or name == "style"]
        for name in ("src", "href", "action"):
            assert str(attrs.get(name) or "#").startswith("#")
    assert not re.search(r"url\((?!#)|@import", page.source)


def test_it_fits_a_phone_and_follows_the_reader_s_colours(page: Page) -> None:
    named = {meta.get("name"): meta.get("content") for meta in page.all("meta")}
    assert "width=device-width" in str(named["viewport"])
    assert named["color-scheme"] == "light dark"
    assert "prefers-color-scheme: dark" in page.source


def test_hostile_answers_and_names_are_only_text(tmp_path: Path) -> None:
    answers = [*HOSTILE, "x" * 10_000_000]
    needles(tmp_path, "full", 4096, answers)
    needles(tmp_path, "re<b>", 4096, answers, model="M<script>1</script>|\x1b[31m")
    records = tmp_path / "records" / "Tiny-full" / "needle-4096.jsonl"
    failed = {"index": 1, "error": "ValueError: <script>\x1b[31m \ud800 [red]x"}
    records.write_text(records.read_text() + json.dumps(failed) + "\n")
    run = CliRunner().invoke(app, ["report", str(tmp_path), "--html"])
    assert run.exit_code == 1  # a sample failed
    assert "ValueError: <script>" in run.output
    page = Page(tmp_path / "report" / "report.html")
    assert len(page.source) < 500_000
    assert len(page.all("script")) == len(page.all("style")) == 1
    assert page.all("img") == page.all("a")[5:] == []
    shown = "".join(page.text["dd"])
    assert "<script>document.title = 1</script>" in shown or "<img src=x" in shown
    table = (tmp_path / "report" / "table.md").read_text(encoding="utf-8")
    for text in (page.source, run.output, table):
        assert not re.search("[\0\x1b\x07\x85\u2028\u2029\u202e\ud800]", text)
    assert "<script>" not in table


@pytest.mark.slow
def test_a_browser_runs_nothing_but_the_page_s_own_script(tmp_path: Path) -> None:
    """Chromium (CHROMIUM, else `chromium`), on a hostile run, and on a page somebody added to."""
    needles(tmp_path, "full", 4096, HOSTILE)
    needles(tmp_path, "streaming", 4096, HOSTILE)
    needles(tmp_path, "re<b>", 4096, HOSTILE, model="M<script>document.title = 1</script>")
    page = build_report(tmp_path, page=True).files[-1]
    added = "<script>document.title = 'ran'</script><img src=x onerror=\"document.title = 'ran'\">"
    text = page.read_text(encoding="utf-8").replace("</main>", f"{added}</main>")
    (other := tmp_path / "added.html").write_text(text, encoding="utf-8")
    for path in (page, other):
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000",
                 f"--user-data-dir={tmp_path}/chromium", "--dump-dom", path.as_uri()]  # fmt: skip
        browser = os.environ.get("CHROMIUM", "chromium")
        done = subprocess.run([browser, *words], capture_output=True, text=True, timeout=120)
        assert f"<title>{tmp_path.name}: report</title>" in done.stdout
        assert '<button type="button">method</button>' in done.stdout  # its own script ran


def test_what_is_spelled_out_and_cut() -> None:
    assert visible("a\tb\nc é 中 \U0001f600") == "a\tb\nc é 中 \U0001f600"
    assert visible("\0\x1b[31m\u2028\u202e\ud800") == "\\x00\\x1b[31m\\u2028\\u202e\\ud800"
    assert visible("abcdef", 4) == "abcd [... 2 more]"


def test_shares_of_the_context_by_counting_tokens() -> None:
    tokens, spans = 5000, [(0, 32), (901, 1777), (4990, 5000)]
    inside = [any(first <= t < last for first, last in spans) for t in range(tokens)]
    shares = stretch_shares(spans, tokens)
    assert sum(shares) * tokens / BINS == pytest.approx(sum(inside))
    for part in (0, 100, 300, BINS - 1):
        first, last = part * tokens / BINS, (part + 1) * tokens / BINS
        whole = [inside[t] for t in range(int(first) + 1, int(last))]
        if all(whole) or not any(whole):
            assert shares[part] == pytest.approx(float(whole[0]), abs=0.25)


def test_without_the_extra_the_page_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needles(tmp_path, "full", 4096, ["a", "b"])
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    run = CliRunner().invoke(app, ["report", str(tmp_path), "--html"])
    assert run.exit_code == 2
    assert "reattention-eval[report]" in run.output


@pytest.mark.parametrize("numbered", [True, False])
def test_a_samples_record_stands_by_it_in_whatever_order_it_was_scored(
    tmp_path: Path, numbered: bool
) -> None:
    """Questions are scored in the file's order; those of one document were asked together."""
    order = [0, 2, 1, 3]  # sample of each record: two documents, their questions in turn
    details = [
        {"sample": i, "document": i % 2, "score": 0.0, "prediction": f"answer {i}",
         "reference": "r", **({"index": order.index(i)} if numbered else {})}
        for i in range(4)
    ]  # fmt: skip
    records = [
        {"index": place, "prediction": f"answer {i}", "n_tokens": 1000 + i, "n_cut": 100 + i}
        for place, i in enumerate(order)
    ]
    facts = {"benchmark": "leval", "task": "quality", "length": 4096}
    leave_cell(tmp_path, "full", "leval-quality", details, facts=facts, records=records)
    (found,) = sample_lists(make_frame(read_run(tmp_path)))
    told = {line.answer: (line.index, line.facts) for line in (*found.worst, *found.drawn)}
    assert told == {
        f"answer {i}": (
            order.index(i), f"1,00{i} tokens, {100 + i} of them cut from the middle",
        )
        for i in range(4)
    }  # fmt: skip
