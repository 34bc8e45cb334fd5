"""Names that carry what changes a prediction, and the variables that replace a configuration."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from reattention_eval.benchmarks.base import Benchmark
from reattention_eval.errors import CheckpointError, ConfigError, DataError, MachineError
from reattention_eval.harness.compose import (
    embedded_model,
    embedded_models,
    evaluation,
    model_method_pairs,
    plan_jobs,
)
from reattention_eval.harness.fingerprint import checkpoint_fingerprint

FULL = dict(type="full")
REATTENTION = dict(type="reattention", local_size=1024, max_spans=95)


def model(checkpoint: Path, **settings: Any) -> dict[str, Any]:
    return dict(type="x.LongContextLM", path=str(checkpoint), dtype="float32", **settings)


def abbr(checkpoint: Path, method: dict[str, Any] = REATTENTION, **settings: Any) -> str:
    return model_method_pairs([model(checkpoint, **settings)], [method])[0]["abbr"]


def test_models_times_methods(checkpoint: Path) -> None:
    crossed = model_method_pairs([model(checkpoint)], [FULL, REATTENTION])
    assert [m["method"]["type"] for m in crossed] == ["full", "reattention"]
    assert re.fullmatch(r"tiny-llama-full-[0-9a-f]{8}", crossed[0]["abbr"])
    assert re.fullmatch(r"tiny-llama-reattention-4096-[0-9a-f]{8}", crossed[1]["abbr"])


def test_the_name_changes_with_all_that_changes_a_prediction(
    checkpoint: Path, bos_checkpoint: Path
) -> None:
    names = [
        abbr(checkpoint),
        abbr(bos_checkpoint, abbr="tiny-llama"),
        abbr(checkpoint, chat_template=True),
        abbr(checkpoint, max_seq_len=4096),
        abbr(checkpoint, max_out_len=9),
        abbr(checkpoint, stop_words=["\n"]),
        abbr(checkpoint, {**REATTENTION, "top_k": 2}),
        abbr(checkpoint, {**REATTENTION, "selection": "block_max"}),
        model_method_pairs([{**model(checkpoint), "dtype": "bfloat16"}], [REATTENTION])[0]["abbr"],
    ]
    assert len(set(names)) == len(names)


def test_the_name_stays_with_what_does_not(checkpoint: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "tiny-llama")
    same = abbr(checkpoint)
    assert abbr(copy) == same
    assert abbr(checkpoint, batch_size=7, run_cfg=dict(num_gpus=2)) == same
    assert abbr(checkpoint, {**REATTENTION, "top_k": 4}) == same  # the default, spelled out


def test_auto_dtype_is_written_down(checkpoint: Path) -> None:
    made = model_method_pairs([{**model(checkpoint), "dtype": "auto"}], [FULL])[0]
    assert made["dtype"] in {"bfloat16", "float16", "float32"}


@pytest.mark.parametrize(
    ("models", "methods", "says"),
    [
        ([{}], [dict(type="none")], "there are"),
        ([{}], [FULL, FULL], "twice"),
        ([{"path": "/nowhere"}], [FULL], "/nowhere"),
        ([{"abbr": "M", "window": 64}], [REATTENTION], "M: .*scope of .*REATTENTION_ONLY_METHODS"),
    ],
)
def test_bad_products(checkpoint: Path, models: list, methods: list, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        model_method_pairs([{**model(checkpoint), **m} for m in models], methods)


def needles(checkpoint: Path, **plan: Any) -> list[dict[str, Any]]:
    known = dict(benchmark="needle", lengths=[600], depths=[0, 50], repeats=2)
    run = evaluation([model(checkpoint)], [FULL], [{**known, **plan}])
    return list(run["datasets"])


def test_needle_names_carry_the_recipe(checkpoint: Path, haystack: Path) -> None:
    def name(**change: Any) -> str:
        return str(needles(checkpoint, haystack=str(haystack), **change)[0]["abbr"])

    names = [
        name(), name(lengths=[700]), name(depths=[0]), name(repeats=3), name(seed=1),
        name(style="passkey"), name(max_out_len=9),
    ]  # fmt: skip
    assert len(set(names)) == len(names)
    assert name(depths=[0.0, 50.0]) == name()
    assert name().startswith("needle-magic_number-600-")


def test_a_missing_haystack_is_found_before_anything_runs(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REATTENTION_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="reattention-eval prepare needle"):
        needles(checkpoint)
    with pytest.raises(DataError, match=r"no\.txt"):
        needles(checkpoint, haystack="no.txt")


def test_a_missing_scoring_library_is_found_before_anything_runs(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task of RULER needs none; a dry run lists what another machine would run."""
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    monkeypatch.setattr(Benchmark, "check", lambda *args, **options: None)  # its data
    summaries = dict(benchmark="leval", lengths=[600], tasks=["quality", "news_summ"])
    words = dict(benchmark="ruler", lengths=[600], tasks=["vt"], samples=2)
    assert plan_jobs([model(checkpoint)], [FULL], [words])
    with pytest.raises(MachineError, match=r"'rouge_score'.*reattention-eval\[scoring\]"):
        plan_jobs([model(checkpoint)], [FULL], [words, summaries])
    monkeypatch.setenv("REATTENTION_DRY_RUN", "1")
    assert len(plan_jobs([model(checkpoint)], [FULL], [words, summaries])) == 3


def test_a_missing_embedded_model_says_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REATTENTION_CACHE", str(tmp_path))
    monkeypatch.delenv("REATTENTION_RUN_MODEL", raising=False)
    with pytest.raises(CheckpointError, match="reattention-eval prepare model smollm2-135m"):
        embedded_model()
    with pytest.raises(ConfigError, match="there are: smollm2-135m, qwen"):
        embedded_model("qwen2.5")


def test_two_checkpoints_get_their_own_prompts(
    checkpoint: Path, bos_checkpoint: Path, haystack: Path
) -> None:
    plan = dict(benchmark="needle", lengths=[600], depths=[50], repeats=1, haystack=str(haystack))
    run = evaluation([model(checkpoint), model(bos_checkpoint)], [FULL], [plan])
    assert len(run["models"]) == 2
    for group, path in zip(
        run["model_dataset_combinations"], (checkpoint, bos_checkpoint), strict=True
    ):
        assert {m["path"] for m in group["models"]} == {str(path)}
        assert {d["tokenizer"] for d in group["datasets"]} == {str(path)}


def test_variables_replace_what_the_configuration_says(
    checkpoint: Path, bos_checkpoint: Path, haystack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "RUN_MODEL": str(bos_checkpoint), "LENGTHS": "600, 800", "DEPTHS": "0,12.5", "REPEATS": "3",
        "ONLY_METHODS": "reattention", "HAYSTACK": str(haystack),
    }.items():  # fmt: skip
        monkeypatch.setenv(f"REATTENTION_{name}", value)
    plan = dict(benchmark="needle", lengths=[100], depths=[50], repeats=1)
    run = evaluation([model(checkpoint)], [FULL, REATTENTION], [plan])
    assert [m["abbr"].rsplit("-", 1)[0] for m in run["models"]] == ["tiny-bos-reattention-4096"]
    assert [d["length"] for d in run["datasets"]] == [600, 800]
    assert run["datasets"][0]["depths"] == [0.0, 12.5]
    assert run["datasets"][0]["repeats"] == 3
    assert run["datasets"][0]["tokenizer"] == str(bos_checkpoint)


def test_an_embedded_model_by_name_stands_in_with_what_belongs_to_it(
    checkpoint: Path, haystack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "qwen2.5-coder-0.5b-q4"
    monkeypatch.setenv("REATTENTION_CACHE", str(tmp_path))
    monkeypatch.setenv("REATTENTION_RUN_MODEL", name)
    plan = dict(benchmark="needle", lengths=[600], depths=[50], repeats=1, haystack=str(haystack))
    entries = [{**model(checkpoint), "chat_template": False, "tensor_parallel": 2, "dtype": "int8"}]
    with pytest.raises(CheckpointError, match=f"reattention-eval prepare model {name}"):
        evaluation(entries, [dict(type="reattention")], [plan])
    monkeypatch.setattr(embedded_models, "prepared_model_folder", lambda name: checkpoint)
    (one,) = evaluation(entries, [dict(type="reattention")], [plan])["models"]
    assert one["abbr"].startswith("Qwen2.5-Coder-0.5B-Instruct-Q4_K_M-reattention-16416-")
    assert one["name"] == "Qwen2.5-Coder-0.5B-Instruct-Q4_K_M"
    assert one["path"] == str(checkpoint) and one["chat_template"] and "tensor_parallel" not in one
    assert one["method"] == dict(type="reattention", local_size=8192, max_spans=256)
    # the hub's own weights, in all else the same
    monkeypatch.setenv("REATTENTION_RUN_MODEL", "Qwen/Qwen2.5-Coder-0.5B-Instruct")
    (hub,) = evaluation(entries, [dict(type="reattention")], [plan])["models"]
    assert hub["path"] == "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    assert hub["name"] == "Qwen2.5-Coder-0.5B-Instruct"
    different = {"path", "name", "abbr"}
    assert {k: hub[k] for k in hub if k not in different} == {
        k: one[k] for k in one if k not in different
    }


def test_methods_are_added_to_those_of_a_configuration(
    checkpoint: Path, haystack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each once, with the model's own scopes; plans with methods of their own are left alone."""
    plan = dict(benchmark="needle", lengths=[600], depths=[50], repeats=1, haystack=str(haystack))
    own = {**plan, "lengths": [700], "methods": [FULL]}
    scopes = {"reattention_plus": {"local_size": 512, "max_spans": 4}}
    entry = model(checkpoint, method_settings=scopes)
    words = "full  reattention_plus streaming_llm:budget_tokens=1024,sink_size=4"
    monkeypatch.setenv("REATTENTION_MORE_METHODS", words)
    jobs = plan_jobs([entry], [FULL, REATTENTION], [plan, own])
    assert [(job.model["method"], job.asked.facts["length"]) for job in jobs] == [
        (FULL, 600),
        (REATTENTION, 600),
        (dict(type="reattention_plus", local_size=512, max_spans=4), 600),
        (dict(type="streaming_llm", window_size=1020, sink_size=4), 600),
        (FULL, 700),
    ]
    monkeypatch.setenv("REATTENTION_ONLY_METHODS", "reattention_plus")
    (job,) = plan_jobs([entry], [FULL, REATTENTION], [plan, own])
    assert job.model["method"]["type"] == "reattention_plus"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("LENGTHS", "8K", "REATTENTION_LENGTHS is '8K'"),
        ("ONLY_METHODS", "full,magic", "magic; this configuration has full, reattention"),
        (
            "MORE_METHODS",
            "full reatention",
            "REATTENTION_MORE_METHODS: unknown method 'reatention'",
        ),
        ("MORE_METHODS", "reattention_plus:budget=9", "reattention_plus has no setting budget"),
        ("RUN_MODEL", "./nowhere", "nowhere"),
        ("ONLY_TASKS", "niah_sngle_1", "did you mean niah_single_1"),
        ("DEMO_LENGTHS", "600", "REATTENTION_DEMO_LENGTHS is not read any more; set REATTENTION_L"),
        ("SWEEP_METHODS", "full", "is not read any more; set REATTENTION_ONLY_METHODS instead"),
    ],
)
def test_bad_variables_are_named(
    checkpoint: Path, haystack: Path, monkeypatch: pytest.MonkeyPatch,
    name: str, value: str, says: str,
) -> None:  # fmt: skip
    monkeypatch.setenv(f"REATTENTION_{name}", value)
    plan = dict(benchmark="needle", lengths=[600], depths=[50], repeats=1, haystack=str(haystack))
    with pytest.raises(ConfigError, match=re.escape(says)):
        evaluation([model(checkpoint)], [FULL, REATTENTION], [plan])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"benchmark": "needel"}, "there is no benchmark 'needel'; choose from longbench"),
        ({"benchmark": None}, "a plan has the benchmark None"),
        (
            {"depth": [50]},
            "has depth, which nothing reads; it needs lengths, depths, repeats and may have bench",
        ),
        ({"lengths": ["4k"]}, "has lengths ['4k']; give [4096, 8192, ...]"),
        ({"lengths": 4096}, "has lengths 4096; give [4096, 8192, ...]"),
        ({"samples": 0}, "has samples 0; give a whole number from 1 on"),
        ({"max_out_len": "8"}, "has max_out_len '8'; give a whole number from 1 on"),
        ({"methods": ["full"]}, "dictionaries, as dict(type='full') and dict(path='...'); found"),
        ({"methods": [{"budget_tokens": 3}]}, "says no type of a method"),
    ],
)
def test_bad_plans_say_what_a_plan_may_have(
    checkpoint: Path, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        needles(checkpoint, **change)


def test_a_plan_that_says_too_little_names_what_is_missing(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="a plan of needle has no depths, repeats; it needs len"):
        plan_jobs([model(checkpoint)], [FULL], [dict(benchmark="needle", lengths=[600])])


def test_jobs_are_one_list_of_which_the_configuration_is_a_form(
    checkpoint: Path, haystack: Path
) -> None:
    plan = dict(benchmark="needle", lengths=[600], depths=[50], repeats=1, haystack=str(haystack))
    asked = [model(checkpoint)], [FULL, REATTENTION], [plan, {**plan, "lengths": [600, 700]}]
    jobs, run = plan_jobs(*asked), evaluation(*asked)
    assert len(jobs) == 4  # what two plans ask is asked once
    assert {job.asked.length for job in jobs} == {600, 700}
    pairs = [
        (m["abbr"], d["abbr"])
        for group in run["model_dataset_combinations"]
        for m in group["models"]
        for d in group["datasets"]
    ]
    assert sorted(pairs) == sorted(job.names for job in jobs)


def test_what_an_earlier_version_wrote_down_says_what_to_do() -> None:
    import reattention_eval.harness as harness

    with pytest.raises(AttributeError, match="start its run again from configs"):
        _ = harness.NeedleDataset


def test_a_checkpoints_files_are_read_once_while_they_stay(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "own")
    first = checkpoint_fingerprint(str(folder))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read again"))
        assert checkpoint_fingerprint(str(folder)) == first
    config = folder / "config.json"
    config.write_bytes(config.read_bytes().replace(b"8192", b"4096"))
    assert checkpoint_fingerprint(str(folder)) != first
