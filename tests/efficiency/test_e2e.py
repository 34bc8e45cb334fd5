"""`bench e2e` on tiny models: what it measures, keeps, refuses and reports."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_model

from reattention_eval.checkpoints.miniature import CONFIGS
from reattention_eval.efficiency.e2e import forms, measure
from reattention_eval.efficiency.e2e.agreement import digest
from reattention_eval.efficiency.e2e.estimate import Effort
from reattention_eval.efficiency.e2e.forms import at_hand, check_forms, parse_form
from reattention_eval.efficiency.e2e.measure import Bench
from reattention_eval.efficiency.e2e.models import about_model, random_model
from reattention_eval.efficiency.e2e.record import E2ERecord, environment, read
from reattention_eval.efficiency.e2e.results import columns, three_digits
from reattention_eval.efficiency.e2e.table import insert, markdown
from reattention_eval.efficiency.shape import shape_of
from reattention_eval.errors import ConfigError, DataError
from reattention_kernels.causal import attend_causal

CPU = torch.device("cpu")
SMALL = "global_size=4,local_size=64,span_size=4,max_spans=8,chunk_size=32"
FORMS = [f"reattention:{SMALL}", "full:chunk_size=32", "whole-flash"]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(window=2048, dtype=torch.float32)


def record_of(model: Any, path: Path | None = None) -> E2ERecord:
    shape = vars(shape_of(model.config.to_dict()))
    about = {"model": "tiny", "weights": "random", "dtype": "float32", "shape": shape}
    return E2ERecord.begin(path, {**about, "weight_bytes": 1, "device": "cpu"})


def bench(model: Any, record: E2ERecord, env: Any = None, **effort: Any) -> Bench:
    number = record.environment(env or environment(CPU, "0" * 40))
    effort = {"repeats": 2, "decode": 3, "warm_up": 40, **effort}
    return Bench(model, record, number, Effort(**effort), lambda line: None)


def cells(names: list[str], *lengths: int) -> list[Any]:
    return [(parse_form(name), tokens) for tokens in lengths for name in names]


def test_every_form_is_measured_and_kept(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "e2e.json"
    record = record_of(model, path)
    assert bench(model, record).measure(cells(FORMS, 60, 300)) == []
    held = read(path)
    assert held.lengths == [60, 300]
    for cell in held.data["cells"]:
        assert len(cell["runs"]) == 2
        for run in cell["runs"]:
            assert run["ttft_seconds"] > 0
            assert run["cache_bytes"] > 0
            assert ("tpot_seconds" in run) == (not cell["whole"])
    selected = [c for c in held.data["cells"] if c["method"] == "reattention"]
    assert [c["within_scope"] for c in selected] == [True, False]
    assert [c["runs"][0]["layer_steps_selected"] > 0 for c in selected] == [False, True]
    text = markdown(held)
    assert "FlashAttention-2" in text
    assert text.count("**fastest full / reattention") == 2


def test_both_rules_of_reattention_stand_beside_full_attention(model: Any) -> None:
    record = record_of(model)
    names = ["full:chunk_size=32", f"reattention_plus:{SMALL}", f"reattention:{SMALL}"]
    bench(model, record).measure(cells(names, 60, 300))
    text = markdown(record)
    rows = [line.split(" | ")[0].strip("| ") for line in text.splitlines()]
    assert rows.index(names[2]) < rows.index(names[1]) < rows.index(names[0])
    for name in names[1:]:
        assert rows.count(f"**fastest full / {name}**") == 2


def test_the_logits_are_those_of_transformers(model: Any) -> None:
    record = record_of(model)
    bench(model, record, repeats=1, decode=0).measure(cells(["full", "whole-flash"], 200))
    with torch.inference_mode():
        logits = model(measure.prompt(200, model.config.vocab_size)).logits[:, -1]
    for cell in record.data["cells"]:
        kept = cell["runs"][0]["logits"]
        assert kept["argmax"] == int(logits.argmax())
        assert kept["sample"] == pytest.approx(digest(logits)["sample"], abs=1e-4)


def test_a_later_run_adds_and_repeats_nothing(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "e2e.json"
    bench(model, record_of(model, path)).measure(cells(FORMS[:1], 60))
    first = read(path).data["cells"][0]
    bench(model, record_of(model, path)).measure(cells(FORMS[:2], 60))
    held = read(path)
    assert held.data["cells"][0] == first
    assert len(held.data["cells"]) == 2
    other = {**environment(CPU, "1" * 40), "commit": "1" * 40}
    bench(model, record_of(model, path), other).measure(cells(FORMS[:1], 60))
    assert [c["environment"] for c in read(path).data["cells"]] == [0, 0, 1]
    with pytest.raises(ConfigError, match="another model or device"):
        E2ERecord.begin(path, {**record_of(model).data, "dtype": "bfloat16"})


def test_a_run_longer_than_the_patience_is_not_repeated(model: Any) -> None:
    record = record_of(model)
    bench(model, record, repeats=3, patience=0.0).measure(cells(FORMS[1:], 60))
    assert [len(cell["runs"]) for cell in record.data["cells"]] == [1, 1]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."), "CUDA out of mem"),
        (MemoryError(), "the host took no more memory"),
    ],
)
def test_out_of_memory_is_a_result(
    model: Any, error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Bench._prompt

    def tight(self: Bench, form: Any, tokens: int, decode: int) -> Any:
        if form.whole and tokens > 100:
            raise error
        return real(self, form, tokens, decode)

    monkeypatch.setattr(Bench, "_prompt", tight)
    record = record_of(model)
    bench(model, record, warm_up=300).measure(cells(FORMS, 60, 300))
    cell = record.cell("whole-flash", 300, 0)
    assert cell["out_of_memory"].startswith(words)
    assert not cell["runs"]
    assert "out of memory" in markdown(record)
    assert columns(record)[1].fastest_full("ttft_seconds")[0] == "full:chunk_size=32"  # type: ignore[index]


def test_what_cannot_fit_is_not_tried(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    record = record_of(model)
    one = bench(model, record)
    whole, chunked = parse_form("whole-flash"), parse_form("full")
    shape = shape_of(model.config.to_dict())
    token = 2 * shape.layers * shape.kv_heads * shape.head_dim * 4
    assert one._least(chunked, 1000).device - one.weights == 1000 * token
    assert one._least(whole, 1000).device > one._least(chunked, 1000).device
    monkeypatch.setattr(Bench, "_memory", lambda self: self.weights + 59 * token)
    one.measure(cells(["full"], 60))
    assert "by arithmetic" in record.data["cells"][0]["out_of_memory"]


def test_a_slowed_card_ends_the_measurement_and_the_run_is_not_kept(
    model: Any, tmp_path: Path
) -> None:
    record = record_of(model, tmp_path / "e2e.json")
    one = bench(model, record)
    answers = iter([[], ["hardware slowdown"]])
    one.problems = lambda: next(answers)
    assert one.measure(cells(FORMS[:2], 60)) == ["hardware slowdown"]
    held = read(tmp_path / "e2e.json")
    assert [len(cell["runs"]) for cell in held.data["cells"]] == [1, 0]


def test_forms_are_parsed_and_refused() -> None:
    form = parse_form("reattention:chunk_size=256,score=qkv_l1,allow_beyond_window=True")
    settings = asdict(form.method)
    assert settings["chunk_size"] == 256
    assert settings["score"] == "qkv_l1"
    assert settings["allow_beyond_window"] is True
    assert not form.full
    assert parse_form("full").full
    assert parse_form("whole-flash").full
    for wrong in ("nothing", "reattention:chunk_size", "full:chunk=3"):
        with pytest.raises(ConfigError):
            parse_form(wrong)
    assert at_hand(CPU) == ["whole-flash"]
    with pytest.raises(ConfigError, match="whole-cudnn cannot run on cpu"):
        check_forms([parse_form("whole-cudnn")], CPU)


def test_fa3_is_called_as_transformers_calls_attention(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def without_gpu(*tensors: Any, backend: str) -> Any:
        calls.append((*(tuple(x.shape) for x in tensors[:2]), backend))
        return attend_causal(*tensors)

    monkeypatch.setattr(forms, "attend_causal", without_gpu)
    before = model.config._attn_implementation
    record = record_of(model)
    bench(model, record, repeats=1).measure(cells(["whole-fa3", "whole-flash"], 90))
    assert ((1, 4, 90, 16), (1, 2, 90, 16), "fa3") in calls
    assert model.config._attn_implementation == before
    assert markdown(record)  # both agree


@pytest.mark.parametrize("name", ["internlm/internlm2_5-7b", "Qwen/Qwen2-1.5B"])
def test_random_weights_are_always_the_same(name: str) -> None:
    config = {
        **CONFIGS[name], "num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 32,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 50,
    }  # fmt: skip
    one, other = (random_model(config, CPU, "bfloat16") for _ in range(2))
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert one.dtype == torch.bfloat16
    about = about_model(name, one)
    assert about["model"] in ("InternLM2.5-7B", "Qwen2-1.5B")
    assert about["weight_bytes"] == sum(2 * p.numel() for p in one.parameters())


def test_a_place_says_that_nothing_is_measured_yet(model: Any) -> None:
    assert markdown(None) == markdown(record_of(model)) == "Not measured yet.\n"


def test_tables_go_between_their_marks() -> None:
    page = "a\n<!-- e2e X -->\nold\n<!-- end -->\nb\n<!-- e2e Y -->\n<!-- end -->\n"
    new = insert(page, "X", "| new |\n")
    assert "old" not in new
    assert "| new |" in new
    assert new.endswith("b\n<!-- e2e Y -->\n<!-- end -->\n")
    assert insert(new, "X", "| new |\n") == new
    with pytest.raises(DataError, match="no place for Z"):
        insert(page, "Z", "")


def test_figures_have_three_digits() -> None:
    said = [three_digits(x) for x in (0.01234, 0.5, 1.234, 12.34, 123.4, 1234.5)]
    assert said == ["0.0123", "0.500", "1.23", "12.3", "123", "1,234"]


def test_a_damaged_record_is_said(tmp_path: Path) -> None:
    path = tmp_path / "e2e.json"
    path.write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        read(path)
    path.write_text(json.dumps({"cells": []}))
    with pytest.raises(DataError, match="no record of"):
        read(path)
