"""What a job asks, as a dataset of an OpenCompass configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reattention_eval.benchmarks import find_benchmark
from reattention_eval.harness.compose.jobs import Job


def opencompass_dataset(job: Job) -> dict[str, Any]:
    """The dictionary; classes stand by their path: OpenCompass writes configurations out."""
    asked = job.asked
    own = {"tokenizer": str(job.model["path"])} if find_benchmark(job.benchmark).tokenized else {}
    return {
        "abbr": job.dataset,
        "type": "reattention_eval.harness.BenchmarkDataset",
        "benchmark": job.benchmark,
        "task": asked.task,
        **own,
        **asked.recipe,
        "reader_cfg": {"input_columns": ["prompt"], "output_column": "reference"},
        "infer_cfg": {
            "prompt_template": {
                "type": "opencompass.openicl.icl_prompt_template.PromptTemplate",
                "template": "{prompt}",
            },
            "retriever": {"type": "opencompass.openicl.icl_retriever.ZeroRetriever"},
            "inferencer": {
                "type": "reattention_eval.harness.LongContextGenInferencer",
                "prompt_column": "prompt",
                "system_column": "system",
                "answer_prefix_column": "answer_prefix",
                "answer_column": "continuation",
                "question_column": "question",
                "json_references": True,
                "chat_template": asked.chat_template,
                "max_out_len": asked.max_out_len,
                "max_prompt_tokens": asked.max_prompt_tokens,
                "stopping_criteria": list(asked.stop_words),
                "dataset_facts": dict(asked.facts),
            },
        },
        "eval_cfg": {
            "evaluator": {
                "type": "reattention_eval.harness.BenchmarkEvaluator",
                "benchmark": job.benchmark,
                "task": asked.task,
                "scoring": asked.scoring,
            }
        },
    }


def facts_of(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of a dataset: `Asked.facts`, max_out_len and max_prompt_tokens.

    Of a dataset that is not ours, whatever of these its inferencer names.
    """
    inferencer = dataset.get("infer_cfg", {}).get("inferencer", {})
    limits = {key: inferencer.get(key) for key in ("max_out_len", "max_prompt_tokens")}
    return {**(inferencer.get("dataset_facts") or {}), **limits}
