"""One SLURM for the tests of this folder, a tiny checkpoint, and the same run without SLURM."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_tokenizers import CHATML

from reattention_eval.checkpoints.miniature import write_miniature
from reattention_eval.checkpoints.miniature.text import made_up_text
from slurm.cluster import cluster
from slurm.runs import Surroundings, opencompass, run_of


@pytest.fixture(scope="session")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surroundings]:
    """A running cluster and what the demo configuration needs to run a tiny model."""
    folder = tmp_path_factory.mktemp("slurm")
    model = write_miniature("meta-llama/Meta-Llama-3-8B", folder / "tiny-llama")
    (model / "chat_template.jinja").write_text(CHATML)
    haystack = folder / "haystack.txt"
    haystack.write_text(made_up_text(20_000))
    with cluster(folder / "cluster") as variables:
        yield Surroundings(
            {
                **variables,
                "REATTENTION_RUN_MODEL": str(model),
                "REATTENTION_HAYSTACK": str(haystack),
                "REATTENTION_LENGTHS": "3000,4700",
                "REATTENTION_DEPTHS": "10,50,90",
                "REATTENTION_REPEATS": "6",
                "REATTENTION_ONLY_METHODS": "full,reattention",
                "REATTENTION_CACHE": str(folder / "cache"),
                "OMP_NUM_THREADS": "1",
                "OMP_WAIT_POLICY": "PASSIVE",
                "CUDA_VISIBLE_DEVICES": "",
            }
        )


@pytest.fixture(scope="session")
def local_run(surroundings: Surroundings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What LocalRunner makes of the demo configuration."""
    cwd = tmp_path_factory.mktemp("local")
    process = opencompass(surroundings, cwd)
    assert process.wait(timeout=1800) == 0, (cwd / "log").read_text()
    return run_of(cwd)
