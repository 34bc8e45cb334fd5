"""What a model's entry says is read before a task is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reattention_eval.errors import MachineError
from reattention_eval.harness.preflight import find_problems, machine_lacks


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, None),
        ({"cache": "auto", "run_cfg": {"num_gpus": 0}, "name": "tiny"}, None),
        ({"cache": "gpu"}, "unknown cache 'gpu'; there are: device, values_on_host, host, auto."),
        ({"cache": "host", "method": {"type": "dynamic_ntk"}}, "dynamic_ntk keeps keys and values"),
        ({"dtyp": "float32"}, "entry has dtyp, which nothing reads; there are: cache, "),
        ({"max_seq_len": -4}, "max_seq_len is -4; give a number of tokens, or None."),
        ({"batch_size": 0}, "batch_size is 0; give a number of prompts, or None."),
        ({"tensor_parallel": 2, "cache": "auto"}, 'cache="auto" looks at the memory of one'),
        ({"method": {"type": "quest"}}, "quest: the first 2 layers attend to all keys, and of"),
        ({"method": {"type": "dca", "window_size": 9000}}, "window_size 9000 is larger than"),
        ({"quantization": "int8"}, "quantization must be a mapping"),
        ({"quantization": {"load_in_5bit": True}}, "quantization names no method"),
    ],
)
def test_wrong_entries(checkpoint: Path, change: dict[str, Any], says: str | None) -> None:
    entry = {"type": "LongContextLM", "path": str(checkpoint), "abbr": "tiny", **change}
    problems = find_problems([(entry, [])])
    assert len(problems) == (says is not None)
    assert says is None or says in problems[0]


def test_what_this_machine_lacks_ends_no_other_method(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> None:
        raise MachineError("kvpress is not here.")

    monkeypatch.setattr("reattention_eval.methods.eviction.check_kvpress", absent)
    entry = {"type": "LongContextLM", "path": str(checkpoint), "abbr": "tiny-full"}
    lost = [{**entry, "abbr": f"tiny-{name}", "method": {"type": name}} for name in ("h2o", "tova")]
    alone, beside = [(model, []) for model in lost], [(model, []) for model in (*lost, entry)]
    assert find_problems(alone) == ["kvpress is not here."]
    assert find_problems(beside) == []
    said = "Not on this machine: tiny-h2o, tiny-tova: kvpress is not here. The others go on."
    assert machine_lacks(beside) == said
    assert machine_lacks([(entry, [])]) == ""
    wrong = {**entry, "cache": "gpu"}
    assert find_problems([*alone, (wrong, [])])[0].startswith("unknown cache 'gpu'")
