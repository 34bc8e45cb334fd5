"""One of the processes of tests/parallel, started by torchrun."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from cases import CASES, answers, captured_steps, refused_by_one, repeated_steps, smooth_model

from reattention_eval.parallel import join, split

if __name__ == "__main__":
    torch.set_num_threads(1)
    ranks = join(int(os.environ["WORLD_SIZE"]))
    if ranks.device.type == "cuda":
        found = captured_steps(split(smooth_model().to(ranks.device), ranks))
    else:
        found = {n: answers(split(case.model(), ranks), case.method) for n, case in CASES.items()}
        model = split(CASES["llama-reattention"].model(), ranks)
        found["repeated"] = repeated_steps(model, ranks)
        found["refused"] = refused_by_one(model, ranks)
    torch.save(found, Path(sys.argv[1]) / f"rank{ranks.rank}.pt")
    dist.destroy_process_group()
