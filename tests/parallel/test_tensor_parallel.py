"""Two processes (gloo) against one: the same positions, logits and tokens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from cases import CASES, answers  # noqa: E402

from reattention_eval.errors import ConfigError  # noqa: E402
from reattention_eval.parallel import check_split, join  # noqa: E402


def by_two_ranks(out: Path, **changes: str) -> list[dict]:
    """What both processes of worker.py found."""
    path = f"{HERE}:{HERE.parent}:{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **changes}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(HERE / "worker.py"), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(out / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """Answers of both processes, by case."""
    return by_two_ranks(tmp_path_factory.mktemp("ranks"), CUDA_VISIBLE_DEVICES="")


@pytest.mark.parametrize("name", CASES)
def test_two_processes_answer_as_one(name, two_ranks):
    case = CASES[name]
    expected = answers(case.model(), case.method)
    scale = float(expected["logits"].abs().max())
    for rank in two_ranks:
        found = rank[name]
        torch.testing.assert_close(found["logits"], expected["logits"], rtol=0, atol=1e-9 * scale)
        assert found["views"] == expected["views"] or case.name == "by_head"
        assert found["tokens"] == expected["tokens"]
        assert found["selected"] == expected["selected"]
    assert torch.equal(two_ranks[0][name]["logits"], two_ranks[1][name]["logits"])
    pairs = zip(two_ranks[0][name]["views"], two_ranks[1][name]["views"], strict=True)
    assert [sorted({*one, *other}) for one, other in pairs] == expected["views"]


def test_repeated_steps_over_two_processes(two_ranks):
    for rank, found in enumerate(found["repeated"] for found in two_ranks):
        assert len(found["rooms"]) >= 2
        for way in ("repeated", "one_fails"):
            torch.testing.assert_close(found[way], found["launched"], rtol=0, atol=1e-12)
        (said,) = found["said"]  # both go on without, whoever failed
        assert ("no memory for a graph" if rank else "in another process") in said


def test_what_one_process_has_no_room_for_both_refuse(two_ranks):
    """Or the other one would wait for it in a forward."""
    first, second = (found["refused"] for found in two_ranks)
    assert first["tokens"] == second["tokens"] and len(first["tokens"][0]) == 5
    asked = ("1 x 5,000 tokens", "1 x 5,045 tokens", "1 x 46 tokens")
    for words, here, there in zip(asked, first["said"], second["said"], strict=True):
        assert f"another process that shares the model has too little memory for {words}" in here
        assert words in there and "GiB of cache on cpu" in there


def test_sizes_that_do_not_divide_the_heads():
    config = tiny_model(heads=12, kv_heads=4).config
    check_split(config, 4)
    with pytest.raises(ConfigError, match=r"=3 does not divide the model's 4 KV .*choose 1, 2, 4"):
        check_split(config, 3)


def test_other_families_are_refused():
    config = tiny_model().config
    config.model_type = "phi3"
    with pytest.raises(ConfigError, match="phi3 model; leave tensor_parallel out"):
        check_split(config, 2)


def test_not_started_by_torchrun():
    with pytest.raises(ConfigError, match="2 processes and 1 started; run it with torchrun"):
        join(2)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_capture_what_they_launch(tmp_path):
    found = by_two_ranks(tmp_path)
    for name in ("reattention", "full"):
        one, other = (rank[name] for rank in found)
        assert torch.equal(one["captured"], other["captured"])
        for rank in (one, other):
            assert rank["captured_graphs"] > 1
            assert rank["launched_graphs"] == 0
            assert torch.equal(rank["captured"], rank["launched"])
