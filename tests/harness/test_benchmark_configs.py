"""The configurations of benchmarks of raw files, and variables that choose parts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from tiny_benchmarks import write_benchmarks
from tiny_raw_files import write_longbench_v2, write_mrcr

from reattention_eval.benchmarks import mrcr
from reattention_eval.cli.configs import config_path
from reattention_eval.errors import ConfigError, DataError
from reattention_eval.harness.compose import evaluation, model_method_pairs
from reattention_eval.harness.compose.run_variables import DRY_RUN
from reattention_eval.harness.list_jobs import main as list_jobs

NAMES = {"longbench": 21, "leval": 20, "infinitebench": 9, "longbench_v2": 1, "mrcr": 15}
FULL, REATTENTION = dict(type="full"), dict(type="reattention")
SMALL = dict(abbr="small", path="org/small", window=8192, dtype="float32")
LARGE = dict(
    abbr="large", path="org/large", window=131072, dtype="float32", chat_template=True,
    method_settings=dict(reattention=dict(local_size=8192, max_spans=256)),
)  # fmt: skip


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = write_benchmarks(tmp_path / "data")
    write_longbench_v2(folder)
    write_mrcr(folder)
    monkeypatch.setattr(mrcr, "_count", lambda: len)  # tiktoken's file is not here
    monkeypatch.setenv("REATTENTION_DATA", str(folder))
    return folder


def load(benchmark: str) -> Config:
    return Config.fromfile(config_path(f"eval_{benchmark}_reattn.py"), format_python_code=False)


def names(datasets: list[dict[str, Any]]) -> list[str]:
    return [dataset["abbr"].rsplit("-", 1)[0] for dataset in datasets]


def datasets(model: dict[str, Any], plan: dict[str, Any]) -> list[dict[str, Any]]:
    run = evaluation([model], [FULL], [{**plan, "cut_at_window": False}])
    return list(run["datasets"])


def plan(benchmark: str = "longbench", **options: Any) -> dict[str, Any]:
    return {"benchmark": benchmark, "lengths": [31500], "tasks": ["qasper"], **options}


@pytest.mark.parametrize("benchmark", NAMES)
def test_configurations_are_written_out_and_read_back_equal(benchmark: str, tmp_path: Path) -> None:
    config = load(benchmark)
    config.dump(tmp_path / "dump.py")
    again = Config.fromfile(tmp_path / "dump.py", format_python_code=False)
    for key in ("models", "datasets", "model_dataset_combinations", "infer", "eval", "summarizer"):
        assert again.to_dict()[key] == config.to_dict()[key]
    assert len(config.datasets) == NAMES[benchmark]
    assert len(config.models) == 9 * 3
    assert "run" not in again
    assert "plan" not in again


def test_full_attention_is_cut_at_the_window_and_says_so() -> None:
    config = load("infinitebench")
    pairs = {
        model.abbr.rsplit("-", 1)[0]: sorted(
            {d.infer_cfg.inferencer.max_prompt_tokens for d in own}
        )
        for group in config.model_dataset_combinations
        for own in [group.datasets]
        for model in group.models
    }
    assert pairs["LLaMA3-8B-full-cut7500"] == [31500]
    assert pairs["LLaMA3-8B-reattention-8192"] == [31500, 63500, 127500]
    assert pairs["LLaMA3.1-8B-full-cut127500"] == [31500, 63500, 127500]
    assert pairs["LLaMA3.1-8B-reattention-16416"] == [31500, 63500, 127500]
    assert pairs["Mistral-v0.3-7B-full-cut31500"] == [31500]


def test_a_missing_file_is_found_while_the_configuration_is_read(data: Path) -> None:
    (data / "leval" / "codeU.jsonl").unlink()
    with pytest.raises(DataError, match="reattention-eval prepare leval"):
        load("leval")


def test_datasets_are_asked_as_the_benchmark_says() -> None:
    def inferencer(model: dict[str, Any], task: str) -> dict[str, Any]:
        dataset = datasets(model, plan(tasks=[task]))[0]
        return dict(dataset["infer_cfg"]["inferencer"])

    assert inferencer(LARGE, "qasper")["chat_template"] is True
    assert inferencer(SMALL, "qasper")["chat_template"] is False
    assert inferencer(LARGE, "qasper")["max_out_len"] == 128
    for task in ("trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"):
        assert inferencer(LARGE, task)["chat_template"] is False
    assert inferencer(LARGE, "samsum")["stopping_criteria"] == ["\n"]
    assert inferencer(LARGE, "trec")["stopping_criteria"] == []


def test_the_name_changes_with_all_that_changes_an_answer(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def name(model: dict[str, Any] = SMALL, benchmark: str = "infinitebench", **change: Any) -> str:
        options = {"lengths": [31500], "tasks": ["longbook_qa_eng"], **change}
        return str(datasets(model, plan(benchmark, **options))[0]["abbr"])

    found = [name(), name(LARGE), name(lengths=[7500]), name(prompts="yarn-mistral")]
    monkeypatch.setenv("REATTENTION_SAMPLES", "1")
    found.append(name())
    monkeypatch.delenv("REATTENTION_SAMPLES")
    before = name(), name(benchmark="leval", tasks=["tpo"])
    monkeypatch.setenv("REATTENTION_SCORING", "both")
    assert name() == before[0]  # scored otherwise, answered alike: nothing is run again
    assert name(benchmark="leval", tasks=["tpo"]) != before[1]  # further rows are asked
    monkeypatch.delenv("REATTENTION_SCORING")
    with (data / "infinitebench" / "longbook_qa_eng.jsonl").open("a") as file:
        file.write("\n")
    found.append(name())
    assert len(set(found)) == len(found)


def test_chat_and_base_models_have_their_own_datasets() -> None:
    run = evaluation([SMALL, LARGE], [FULL, REATTENTION], [plan()])
    groups = run["model_dataset_combinations"]
    assert [[m["name"] for m in g["models"]] for g in groups] == [["small"] * 2, ["large"] * 2]
    assert len({d["abbr"] for d in run["datasets"]}) == 2


def test_several_plans_are_one_run() -> None:
    run = evaluation(
        [SMALL], [FULL, REATTENTION],
        [plan(), plan("leval", tasks=["tpo"], methods=[REATTENTION]), plan(lengths=[3500])],
    )  # fmt: skip
    tasks = {
        m["method"]["type"]: names(g["datasets"])
        for g in run["model_dataset_combinations"]
        for m in g["models"]
    }
    assert tasks == {
        "full": ["longbench-qasper-31500", "longbench-qasper-3500"],
        "reattention": ["longbench-qasper-31500", "leval-tpo-31500", "longbench-qasper-3500"],
    }


def test_variables_choose_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ONLY_MODELS": "Large", "ONLY_METHODS": "reattention", "ONLY_LENGTHS": "32k",
        "ONLY_TASKS": "few-shot-learning, paper, tpo", "SAMPLES": "3",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"REATTENTION_{name}", value)
    plans = [
        plan(lengths=[7500, 31500]),
        plan("infinitebench", tasks="other"),
        plan("leval", tasks=["gsm100"]),
    ]
    run = evaluation([SMALL, LARGE], [FULL, REATTENTION], plans)
    assert [m["abbr"].rsplit("-", 1)[0] for m in run["models"]] == ["large-reattention-16416"]
    found = names(run["datasets"])
    assert len(found) == 21 + 3 + 18  # `paper` is a group of each benchmark
    assert {name.rsplit("-", 1)[1] for name in found} == {"31500"}
    assert all(dataset["samples"] == 3 for dataset in run["datasets"])
    monkeypatch.setenv("REATTENTION_ONLY_TASKS", "few-shot-learning,tpo,longbook_qa_eng")
    assert names(evaluation([LARGE], [REATTENTION], plans)["datasets"]) == [
        *(f"longbench-{task}-31500" for task in ("trec", "triviaqa", "samsum", "lsht")),
        "infinitebench-longbook_qa_eng-31500", "leval-tpo-31500",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ONLY_MODELS", "none", "small, large"),
        ("ONLY_METHODS", "infllm", "full, reattention"),
        ("ONLY_TASKS", "qaspar", "narrativeqa, qasper"),
        ("ONLY_TASKS", "tpo", "nothing is left"),
        ("ONLY_LENGTHS", "4K", "31500"),
        ("SAMPLES", "0", "from 1 on"),
        ("SCORING", "best", "official, opencompass, both"),
    ],
)
def test_a_wrong_word_names_the_right_ones(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(f"REATTENTION_{name}", value)
    with pytest.raises(ConfigError, match=says):
        evaluation([SMALL, LARGE], [FULL, REATTENTION], [plan()])


def test_a_model_of_ones_own_gets_a_scope_that_fits(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REATTENTION_RUN_MODEL", str(checkpoint))
    run = evaluation([LARGE, SMALL], [FULL, REATTENTION], [plan()])
    assert [m["abbr"].rsplit("-", 1)[0] for m in run["models"]] == [
        "tiny-llama-full-cut7500", "tiny-llama-reattention-8192",
    ]  # fmt: skip
    assert run["models"][0]["max_prompt_tokens"] == 7500


def test_a_cut_needs_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = {"abbr": "x", "path": "org/x", "dtype": "float32"}
    with pytest.raises(ConfigError, match="window="):
        model_method_pairs([unknown], [FULL], cut_at_window=True)
    assert model_method_pairs([unknown], [REATTENTION], cut_at_window=True)
    assert "max_prompt_tokens" not in model_method_pairs([SMALL], [FULL])[0]


def test_unknown_benchmarks_and_groups() -> None:
    with pytest.raises(ConfigError, match="longbench, longbench_v2, leval"):
        evaluation([SMALL], [FULL], [plan("longbunch")])
    with pytest.raises(ConfigError, match="the groups all"):
        evaluation([SMALL], [FULL], [plan(tasks="best")])


def test_listing_jobs_leaves_no_variable_behind(data: Path) -> None:
    (data / "leval" / "codeU.jsonl").unlink()
    path = str(config_path("eval_leval_reattn.py"))
    assert list_jobs([path]) == 0
    assert DRY_RUN not in os.environ
    assert list_jobs([path, "--check"]) == 1
