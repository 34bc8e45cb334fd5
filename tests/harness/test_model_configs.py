"""The files in configs/models: what they say, and that each runs through `LongContextLM`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from faithful_checkpoints import NINE, nine_folder
from mmengine.config import Config

from reattention_eval.checkpoints import load_model
from reattention_eval.cli.configs import config_path
from reattention_eval.errors import ConfigError
from reattention_eval.harness import LongContextLM, placement
from reattention_eval.harness.compose import embedded_models, model_method_pairs
from reattention_eval.methods import build_method

FOLDER = config_path("eval_demo.py").parent / "models"
COLLECTIONS = ("paper_base", "paper_chat")
EMBEDDED = ("embedded", "qwen2_5_coder_0_5b_q4", "qwen2_5_coder_1_5b_q4")
# a collection's name begins with paper_
NAMES = sorted(
    p.stem for p in FOLDER.glob("*.py")
    if p.stem not in ("__init__", *EMBEDDED) and not p.stem.startswith("paper_")
)  # fmt: skip
PAPER = [dict(type=name) for name in ("full", "streaming_llm", "reattention")]


def entries(name: str) -> list[dict[str, Any]]:
    config = Config.fromfile(FOLDER / f"{name}.py", format_python_code=False)
    return [entry.to_dict() for entry in config.models]


@pytest.fixture
def on_miniatures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REATTENTION_MODELS", str(nine_folder()))


@pytest.fixture
def from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REATTENTION_MODELS", raising=False)


def test_each_model_has_a_base_and_a_chat_form(from_the_hub: None) -> None:
    every = {name: entries(name)[0] for name in NAMES}
    assert len(every) == 18
    base = {e["path"] for e in every.values() if not e["chat_template"]}
    assert base == set(NINE)
    for collection, chat in zip(COLLECTIONS, (False, True), strict=True):
        listed = entries(collection)
        assert len(listed) == 9
        assert all(e["chat_template"] is chat for e in listed)
        assert {e["abbr"] for e in listed} <= {e["abbr"] for e in every.values()}
    assert len({e["abbr"] for e in every.values()}) == 18


def test_embedded_models_name_the_hubs_and_the_quantisation(
    from_the_hub: None, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_models, "prepared_model_folder", lambda name: checkpoint)
    every = [entries(name)[0] for name in EMBEDDED]
    assert [e["abbr"] for e in every] == [
        "SmolLM2-135M-Instruct-Q4_1", "Qwen2.5-Coder-0.5B-Instruct-Q4_K_M",
        "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M",
    ]  # fmt: skip
    for entry, scope in zip(every, (8192, 16416, 16416), strict=True):
        assert entry["chat_template"] is True
        pairs = model_method_pairs([entry], PAPER)
        assert [pair["abbr"].split("-")[-2] for pair in pairs[1:]] == [str(scope)] * 2


@pytest.mark.parametrize("name", NAMES)
def test_scopes_are_the_papers_and_fit_the_window(name: str, from_the_hub: None) -> None:
    (entry,) = entries(name)
    crossed = {
        m["method"]["type"]: build_method(m["method"]) for m in model_method_pairs([entry], PAPER)
    }
    eight = entry["abbr"].startswith("LLaMA3-8B")
    method = crossed["reattention"]
    assert (method.global_size, method.span_size, method.top_k) == (32, 32, 4)
    assert (method.local_size, method.max_spans) == ((4096, 127) if eight else (8192, 256))
    assert method.budget == crossed["streaming_llm"].budget <= entry["window"]
    assert method.chunk_size == 512
    assert entry["dtype"] == "bfloat16"


@pytest.mark.parametrize("window", [1024, 1100, 2048, 3000, 4096, 8192, 16416, 32768])
def test_scopes_of_every_method_fit_a_window(window: int) -> None:
    """Wherever the paper's rule runs, so do the others, with as many keys."""
    model = dict(path="owner/name", window=window, method_settings=embedded_models.scopes(window))
    methods = [dict(type=name) for name in ("reattention", "reattention_plus", "streaming_llm")]
    built = [build_method(pair["method"]) for pair in model_method_pairs([model], methods)]
    assert len({method.budget for method in built}) == 1
    assert window - 32 < built[0].budget <= window or built[0].budget == 16416
    paper, plus = built[:2]
    assert plus.local_size <= max(512, paper.local_size // 4) + 31


@pytest.mark.parametrize("hub_id", NINE, ids=lambda hub_id: hub_id.rsplit("/", 1)[-1])
def test_a_base_form_runs_on_a_checkpoint_of_its_shape(hub_id: str, on_miniatures: None) -> None:
    """The entry as it is written, but for dtype and a scope that a short prompt exceeds."""
    (entry,) = [e for e in entries("paper_base") if e["path"].endswith(hub_id.rsplit("/", 1)[-1])]
    small = dict(type="reattention", local_size=12, span_size=4, max_spans=3, chunk_size=6,
                 global_size=4)  # fmt: skip
    texts = ["the reader never did think about the special number 4821 " * 3]
    expected, _ = load_model(entry["path"], dtype="float32", attn_implementation="eager")
    for model in model_method_pairs([{**entry, "dtype": "float32"}], [dict(type="full"), small]):
        kind = model.pop("type")
        assert kind == "reattention_eval.harness.LongContextLM"
        for key in ("abbr", "batch_size", "run_cfg"):
            model.pop(key)
        lm = LongContextLM(**model)
        ids = torch.tensor([lm.tokenizer(texts[0])["input_ids"]])
        lm.session.prefill(ids)
        selects = model["method"]["type"] == "reattention"
        assert (lm.session.stats.layer_steps_selected > 0) == selects
        (answer,) = lm.generate(texts, max_out_len=5)
        if not selects:
            plain = expected.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False
            )[0, ids.shape[1] :]
            assert answer == lm.tokenizer.decode(plain, skip_special_tokens=True)
        own = lm.model
        lm.close()
        with torch.inference_mode():
            difference = (own(ids).logits - expected(ids).logits).abs().max()
        assert difference < 1e-4


@pytest.mark.parametrize("name", ["llama3_8b", "qwen2_72b_instruct"])
def test_local_folders_replace_hub_ids(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REATTENTION_MODELS", str(nine_folder()))
    path = entries(name)[0]["path"]
    there = name == "llama3_8b"
    assert Path(path).is_dir() == there
    assert path.endswith("Meta-Llama-3-8B" if there else "Qwen/Qwen2-72B-Instruct")


def test_a_methods_own_settings_come_before_the_models(from_the_hub: None) -> None:
    model = dict(path="owner/name", method_settings=dict(reattention=dict(local_size=64, top_k=2)))
    crossed = model_method_pairs([model], [dict(type="reattention", local_size=1024)])[0]
    assert crossed["method"] == dict(type="reattention", local_size=1024, top_k=2)
    assert "method_settings" not in crossed


def test_a_scope_beyond_the_window_is_found_while_the_configuration_is_read(
    from_the_hub: None,
) -> None:
    with pytest.raises(ConfigError, match=r"scope of 8192 tokens is larger .* window of 4096"):
        model_method_pairs([dict(path="owner/name", window=4096)], [dict(type="reattention")])


@pytest.mark.parametrize(
    ("there", "billions", "gpus"),
    [([], 8, 0), ([80], 8, 1), ([80] * 8, 8, 1), ([80] * 8, 70.6, 4), ([141] * 8, 70.6, 2),
     ([24] * 2, 70.6, 2), ([16] * 8, 8, 2)],
)  # fmt: skip
def test_gpus_by_the_size_of_the_weights(
    there: list[int], billions: float, gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Device:
        def __init__(self, gib: int) -> None:
            self.total_memory = gib * 2**30

    monkeypatch.delenv("REATTENTION_GPUS", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(there))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(there))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: Device(there[i]))
    made = placement.placement(billions)
    assert made["run_cfg"] == {"num_gpus": gpus}
    assert made.get("device_map") == ("auto" if gpus > 1 else None)
    monkeypatch.setenv("REATTENTION_GPUS", "8")
    assert placement.placement(billions) == {"run_cfg": {"num_gpus": 8}, "device_map": "auto"}


def test_a_number_of_gpus_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REATTENTION_GPUS", "many")
    with pytest.raises(ConfigError, match="REATTENTION_GPUS is 'many'; give the number of GPUs"):
        placement.placement(8)
