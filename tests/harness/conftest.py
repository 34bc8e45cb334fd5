"""A tiny checkpoint with a real tokenizer, a haystack, and configurations for single tasks."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoints import save_checkpoint
from tiny_tokenizers import tiny_tokenizer

WORDS = ("the", "of", "and", "to", "a", "dog", "fox", "essay", "think", "reader", "result", "text")


torch.set_num_threads(1)  # tiny tensors: threads only wait for each other


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny-llama", tiny_tokenizer())


@pytest.fixture(scope="session")
def bos_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its tokenizer puts BOS in front of every text, and so does its chat template."""
    tokenizer = tiny_tokenizer(adds_bos=True)
    tokenizer.chat_template = "{{ bos_token }}" + str(tokenizer.chat_template)
    return save_checkpoint(tmp_path_factory.mktemp("bos") / "tiny-bos", tokenizer)


@pytest.fixture(scope="session")
def haystack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 20,000 words in sentences."""
    rng = random.Random(0)
    sentences = [
        " ".join(rng.choices(WORDS, k=rng.randrange(5, 15))).capitalize() + "." for _ in range(2000)
    ]
    path = tmp_path_factory.mktemp("text") / "haystack.txt"
    path.write_text(" ".join(sentences), encoding="utf-8")
    return path


@pytest.fixture
def task_config(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """A configuration of one inference task over rows given as dictionaries."""
    monkeypatch.chdir(tmp_path)  # OpenCompass's own inferencer leaves a folder where it is
    from mmengine.config import Config

    def make(
        rows: list[dict[str, Any]],
        *,
        abbr: str = "rows",
        inferencer: dict[str, Any] | None = None,
        **model: Any,
    ) -> Config:
        dataset = {
            "abbr": abbr,
            "type": "row_dataset.RowDataset",
            "rows": rows,
            "reader_cfg": {"input_columns": ["prompt"], "output_column": "answer"},
            "infer_cfg": {
                "prompt_template": {
                    "type": "opencompass.openicl.icl_prompt_template.PromptTemplate",
                    "template": "{prompt}",
                },
                "retriever": {"type": "opencompass.openicl.icl_retriever.ZeroRetriever"},
                "inferencer": {
                    "type": "reattention_eval.harness.LongContextGenInferencer",
                    "prompt_column": "prompt",
                    "max_out_len": 4,
                    **(inferencer or {}),
                },
            },
            "eval_cfg": {
                "evaluator": {"type": "opencompass.openicl.icl_evaluator.AccEvaluator"},
            },
        }
        own = {
            "type": "reattention_eval.harness.LongContextLM",
            "abbr": "tiny",
            "path": str(checkpoint),
            "dtype": "float32",
            **model,
        }
        return Config(
            {"models": [own], "datasets": [[dataset]], "work_dir": str(tmp_path / "work")}
        )

    return make
