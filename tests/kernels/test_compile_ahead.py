"""Kernels compiled ahead are the ones that calls need, whatever their lengths; a second process
finds them all on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from reattention_kernels.warmup import KernelShape, compile_ahead

pytest.importorskip("triton")


def report(cache: Path, *more: str) -> dict:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compile_ahead.py")
    done = subprocess.run(
        [sys.executable, str(script), "12", "2", *more],
        capture_output=True, text=True, check=False,
        env=environment | {"TRITON_CACHE_DIR": str(cache)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow  # compiles some sixty kernels
def test_no_call_compiles_what_was_compiled_ahead(tmp_path):
    first, second = report(tmp_path), report(tmp_path)
    assert first["failures"] == second["failures"] == []
    assert first["launches"] > 30
    assert first["later"] == []
    # a chunk of any size: one variant of each but of the rescoring, whose candidates vary
    names = first["ahead"]
    assert {"best_blocks_hopper", "finish_kernel", "select_few_kernel"} <= set(names)
    assert names.count("rescore_kernel") <= 6
    for name in ("best_blocks_hopper", "histogram_kernel", "mark_kernel", "finish_kernel"):
        assert names.count(name) == 1, name
    # norms of one token and of more, in 16 bit and float32; 12 and 2 heads, with a slot and without
    assert (names.count("rms_norm_kernel"), names.count("rotate_kernel")) == (4, 4)
    assert second["ahead"] == second["later"] == []


@pytest.mark.slow  # compiles some sixty more
def test_tiers_sizes_of_layers_and_memories_of_votes_are_compiled_ahead(tmp_path):
    found = report(tmp_path, "tiers")
    assert found["failures"] == found["later"] == []
    names = found["ahead"]
    # three sizes; the votes of a token and of those before it have weights
    assert (names.count("finish_kernel"), names.count("mark_kernel")) == (3, 6)
    # a chunk's, by a count at a multiple of 16 bytes and at none; those before it; in a graph
    assert names.count("fetch_values_kernel") == 4
    # of values that are all on the device, and of those that are not
    assert names.count("decode_view_kernel") == names.count("gather_view_kernel") == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without CUDA")
def test_nothing_to_do_without_a_gpu():
    work = compile_ahead(KernelShape(32, 8, 128))
    assert work.wait(0)
    assert (work.compiled, work.failures) == ([], [])


@pytest.mark.gpu
def test_other_threads_launch_meanwhile():
    from reattention_kernels import topk_keys
    from reattention_kernels.recording import recorded_launches

    query, key = torch.randn(1, 4, 9, 64, device="cuda"), torch.randn(1, 2, 500, 64, device="cuda")
    want = topk_keys(query, key)
    answers = []
    with recorded_launches() as launches:
        other = threading.Thread(target=lambda: answers.append(topk_keys(query, key)))
        other.start()
        other.join()
        assert launches == []
        topk_keys(query, key)
        assert [launch.name for launch in launches] == ["best_blocks_kernel", "rescore_kernel"]
    assert torch.equal(answers[0], want)
