"""Every task's prompt, as it is tokenised, pinned; and set beside OpenCompass's where they agree.

`python tests/harness/test_golden_prompts.py` from the repository's root writes the golden file
again; look at its difference before it is committed.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

if __name__ == "__main__":
    sys.path.insert(0, "tests")
from tiny_benchmarks import RAW_BENCHMARKS, load_rows, write_benchmarks
from tiny_tokenizers import tiny_tokenizer

from reattention_eval.benchmarks.prompt_texts import prompt_texts
from reattention_eval.harness.prompt_runner import PromptRunner
from reattention_eval.harness.samples import Sample
from reattention_eval.prompts import PreparedPrompt

GOLDEN = Path(__file__).parent / "data" / "golden_prompts.json"
TASKS = [f"{b.name}/{task}" for b in RAW_BENCHMARKS.values() for task in b.tasks]
EDGE = 300
CUT = 300


@cache
def rows(task: str) -> list[dict[str, Any]]:
    before = os.environ.get("REATTENTION_DATA")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["REATTENTION_DATA"] = str(write_benchmarks(Path(folder)))
        try:
            return load_rows(*task.split("/"))
        finally:
            os.environ.pop("REATTENTION_DATA")
            if before is not None:
                os.environ["REATTENTION_DATA"] = before


@cache
def runner(folder: Path) -> PromptRunner:
    tokenizer = tiny_tokenizer(adds_bos=True)
    tokenizer.chat_template = "{{ bos_token }}" + str(tokenizer.chat_template)
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return PromptRunner(str(folder), tokenizer_only=True)


def prepared(lm: PromptRunner, task: str, chat: bool, limit: int | None = None) -> PreparedPrompt:
    row = rows(task)[0]
    return lm._prepare(
        Sample(
            row["prompt"], row["answer_prefix"], chat_template=chat, system=row["system"] or None
        ),
        limit,
    )


def facts(lm: PromptRunner, task: str) -> dict[str, Any]:
    """Head, tail and token count, as a base model is asked and, where it may be, a chat model."""
    benchmark, name = task.split("/")
    out = {}
    for form in ("base", "chat"):
        if form == "base" or RAW_BENCHMARKS[benchmark].task(name).chat:
            prompt = prepared(lm, task, form == "chat")
            text = lm.tokenizer.decode(prompt.input_ids)
            out[form] = {"tokens": prompt.n_tokens, "head": text[:EDGE], "tail": text[-EDGE:]}
    return out


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> PromptRunner:
    return runner(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("task", TASKS)
def test_prompts_are_as_they_were(lm: PromptRunner, task: str) -> None:
    assert facts(lm, task) == json.loads(GOLDEN.read_text(encoding="utf-8"))[task]


@pytest.mark.parametrize("task", TASKS)
def test_bos_stands_once_and_the_cut_keeps_both_ends(lm: PromptRunner, task: str) -> None:
    for chat in (False, True):
        whole, cut = prepared(lm, task, chat), prepared(lm, task, chat, CUT)
        assert whole.input_ids.count(1) == 1
        assert whole.input_ids[0] == 1
        assert cut.n_tokens == CUT
        assert cut.n_cut == whole.n_tokens - CUT
        assert cut.input_ids[:20] == whole.input_ids[:20]
        assert cut.input_ids[-20:] == whole.input_ids[-20:]


def opencompass_texts(folder: str, names: dict[str, str]) -> dict[str, str]:
    """Task -> the human's turn in OpenCompass's configuration, with this package's placeholders."""
    import opencompass
    from mmengine.config import Config

    root = Path(opencompass.__file__).parent / "configs" / "datasets" / folder
    found = {}
    for name, part in names.items():
        path = next(root.glob(f"{folder}{part}/*_gen_*.py"))
        config = Config.fromfile(path, format_python_code=False)
        key = next(key for key in config if key.endswith("_infer_cfg"))
        template = config[key].prompt_template.template
        human = [turn.prompt for turn in template.round if turn.role == "HUMAN"]
        found[name] = human[0].replace("{question}", "{input}").replace("option_", "OPTION_")
    return found


def test_longbench_agrees_with_opencompass_but_for_its_two_errors() -> None:
    ours = prompt_texts("longbench")["prompts"]
    parts = {name: name.removesuffix("-p") for name in ours}
    theirs = opencompass_texts("longbench", parts)
    assert {name for name in ours if ours[name] != theirs[name]} == {"qasper", "multi_news"}
    assert theirs["qasper"] == theirs["hotpotqa"]  # it asks qasper as if it were hotpotqa


def test_infinitebench_agrees_with_opencompass_but_for_its_errors() -> None:
    ours = prompt_texts("infinitebench")["gpt4"]
    parts = {
        "passkey": "retrievepasskey", "number_string": "retrievenumber",
        "kv_retrieval": "retrievekv", "longbook_sum_eng": "ensum", "longbook_qa_eng": "enqa",
        "longbook_choice_eng": "enmc", "longbook_qa_chn": "zhqa", "longdialogue_qa_eng": "endia",
        "math_find": "mathfind", "math_calc": "mathcalc", "code_run": "coderun",
        "code_debug": "codedebug",
    }  # fmt: skip
    theirs = opencompass_texts("infinitebench", parts)
    # "inspect through the options" lost a word there; math_calc there is half of yarn-mistral's
    assert {name for name in ours if ours[name] != theirs[name]} == {"code_debug", "math_calc"}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        found = {task: facts(runner(Path(place)), task) for task in TASKS}
    GOLDEN.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
