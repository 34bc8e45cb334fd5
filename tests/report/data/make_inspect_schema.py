"""Makes inspect_log.schema.json, by which CI knows inspect_ai's log format without inspect_ai.

    python -m venv /tmp/inspect && /tmp/inspect/bin/pip install inspect-ai
    /tmp/inspect/bin/python tests/report/data/make_inspect_schema.py

Properties that no log of ours has (events, tools, reviews and the like) are left out, and so is
what only they refer to.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

from inspect_ai.log import EvalLog, EvalSample
from inspect_ai.log._log import EvalSampleSummary

OURS = {
    "EvalLog": ("version", "status", "eval", "plan", "results", "stats", "error"),
    "EvalSpec": ("eval_id", "run_id", "created", "task", "task_id", "task_version", "task_attribs",
                 "task_args", "task_args_passed", "solver", "solver_args", "solver_args_passed",
                 "tags", "dataset", "model", "model_generate_config", "model_args", "config",
                 "packages", "metadata", "viewer", "revision"),
    "EvalSample": ("id", "epoch", "input", "target", "messages", "output", "scores", "metadata",
                   "store", "events", "model_usage", "role_usage", "attachments",
                   "started_at", "completed_at", "total_time", "working_time", "error"),
    "EvalSampleSummary": ("id", "epoch", "input", "target", "metadata", "scores", "model_usage",
                          "role_usage", "started_at", "completed_at", "total_time", "working_time",
                          "error", "completed", "message_count"),
    "EvalConfig": (),
    "GenerateConfig": ("max_tokens", "temperature"),
    "ViewerConfig": ("trust_content",),
    "ChatMessageUser": ("role", "content", "source"),
    "ChatMessageAssistant": ("role", "content", "source", "model"),
    "ModelOutput": ("model", "choices", "completion", "usage"),
    "ChatCompletionChoice": ("message", "stop_reason"),
    "EvalPlanStep": ("solver", "params", "params_passed"),
    "EvalPlan": ("name", "steps", "config"),
    "EvalResults": ("total_samples", "completed_samples", "scores"),
    "Score": ("value", "answer", "history"),
}  # fmt: skip
TEXTS = {"ChatMessageSystem", "ChatMessageTool"}  # kinds of messages that no log of ours has


def main() -> None:
    whole: dict[str, Any] = {}
    for kind in (EvalLog, EvalSample, EvalSampleSummary):
        made = kind.model_json_schema(mode="validation")
        whole |= made.pop("$defs", {})
        whole[kind.__name__] = made
    for name, kept in OURS.items():
        own = whole[name]
        own["properties"] = {k: v for k, v in own.get("properties", {}).items() if k in kept}
        own["required"] = [k for k in own.get("required", []) if k in kept]
        own["additionalProperties"] = False
    for name in TEXTS:
        whole[name] = {"not": {}}
    # the content of a message is text here
    for name in ("ChatMessageUser", "ChatMessageAssistant"):
        whole[name]["properties"]["content"] = {"type": "string"}
    for name in ("EvalSample", "EvalSampleSummary"):
        whole[name]["properties"]["messages" if name == "EvalSample" else "input"] = (
            {"type": "array", "items": {"anyOf": [{"$ref": f"#/$defs/{n}"} for n in
             ("ChatMessageUser", "ChatMessageAssistant")]}}
            if name == "EvalSample" else {"type": "string"}
        )  # fmt: skip
    whole["EvalSample"]["properties"]["input"] = {"type": "string"}
    for name, key in (("EvalSample", "events"), ("Score", "history")):
        whole[name]["properties"][key] = {"type": "array", "maxItems": 0}
    kept = {name: bare(whole[name]) for name in reachable(whole)}
    note = f"from inspect_ai {importlib.metadata.version('inspect_ai')} by make_inspect_schema.py"
    path = Path(__file__).with_name("inspect_log.schema.json")
    path.write_text(json.dumps({"$comment": note, "$defs": kept}, indent=1) + "\n")


def reachable(whole: dict[str, Any]) -> list[str]:
    found: dict[str, None] = {}
    todo = ["EvalLog", "EvalSample", "EvalSampleSummary"]
    while todo:
        name = todo.pop()
        if name not in found:
            found[name] = None
            todo += [ref.rsplit("/", 1)[1] for ref in references(whole[name])]
    return sorted(found)


def references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [ref for one in value for ref in references(one)]
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [ref for one in value.values() for ref in references(one)]
    return []


def bare(value: Any, names: bool = False) -> Any:
    """Without words for readers; `names`: the keys are names of properties."""
    if isinstance(value, list):
        return [bare(one) for one in value]
    if isinstance(value, dict):
        aside = () if names else ("description", "title", "default", "discriminator")
        return {k: bare(v, k == "properties") for k, v in value.items() if k not in aside}
    return value


if __name__ == "__main__":
    main()
