"""What a decode step costs as a CUDA graph and launched kernel by kernel, on a random 8B model.

    python scripts/gpu_decode.py --out results/gpu/decode_step.json

Milliseconds per token (median) of ReAttention at the paper's setting for an 8K window, of
StreamingLLM and of full attention, behind prompts of several lengths.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

import torch
from gpu_common import random_model, save_rows
from transformers import __version__

from reattention_eval import FullAttention, ReAttention, StreamingLLM, attach
from reattention_eval.checkpoints.miniature import CONFIGS

WARM, STEPS = 8, 32


def milliseconds_per_token(session, ids) -> tuple[float, float]:
    """(median ms of a step, seconds of the prefill)."""
    started = time.perf_counter()
    session.prefill(ids, max_new_tokens=WARM + STEPS)
    torch.cuda.synchronize()
    prefill = time.perf_counter() - started
    times = []
    token = torch.tensor([[17]], device="cuda")
    for _ in range(WARM + STEPS):
        started = time.perf_counter()
        session.decode(token)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 1000 * median(times[WARM:]), prefill


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="meta-llama/Llama-3.1-8B", choices=sorted(CONFIGS))
    parser.add_argument("--lengths", default="8704,131072")
    parser.add_argument("--commit")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    model = random_model(asked.model)
    about = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__,
        "transformers": __version__, "commit": asked.commit, "model": asked.model,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }  # fmt: skip
    rows = []
    for length in map(int, asked.lengths.split(",")):
        ids = torch.randint(3, model.config.vocab_size, (1, length), device="cuda")
        for name, method, graphs in (
            ("full, launched", FullAttention(), False),
            ("full, graph", FullAttention(), True),
            ("streaming_llm, graph", StreamingLLM(), True),
            ("reattention, launched", ReAttention(), False),
            ("reattention, graph", ReAttention(), True),
        ):
            with attach(model, method) as session:
                if not graphs:
                    session._repeats.close()
                step, prefill = milliseconds_per_token(session, ids)
                row = {
                    "method": name, "tokens": length, "ms_per_token": round(step, 3),
                    "prefill_seconds": round(prefill, 3),
                    "layer_steps_selected": session.stats.layer_steps_selected,
                }  # fmt: skip
            rows.append(row)
            print(json.dumps(row), flush=True)
            torch.cuda.empty_cache()
            save_rows(asked.out, about, rows)


if __name__ == "__main__":
    main()
