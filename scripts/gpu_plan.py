"""The memory plan against the peak of one GPU: a random model of a published shape, real prompts.

    python scripts/gpu_plan.py --out results/gpu/memory_plan.json
    python scripts/gpu_plan.py --model meta-llama/Llama-3.1-8B --lengths 8192,131072

Each length is read under full attention, StreamingLLM and ReAttention, with 16 new tokens. Ends
with status 1 where a peak differs from the plan by more than 5 %.
"""

from __future__ import annotations

import argparse
import json
from datetime import datetime, timezone
from pathlib import Path

import torch
from gpu_common import head, random_model, save_rows

from reattention_eval import attach
from reattention_eval.checkpoints.miniature import CONFIGS
from reattention_eval.efficiency import Placement, plan_memory, shape_of
from reattention_eval.methods import build_method

NEW_TOKENS, TOLERANCE = 16, 0.05
METHODS = ("full", "streaming_llm", "reattention")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="meta-llama/Llama-3.1-8B", choices=sorted(CONFIGS))
    parser.add_argument("--commit", help="of a copy without Git history")
    parser.add_argument("--lengths", default="8192,32768,131072")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    shape = shape_of(dict(CONFIGS[asked.model]))
    model = random_model(asked.model)
    about = _facts(asked.model, asked.commit)
    rows = []
    for length in map(int, asked.lengths.split(",")):
        ids = torch.randint(0, shape.vocabulary, (1, length), device="cuda")
        for method in map(build_method, METHODS):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            with attach(model, method) as session:
                session.generate(ids, max_new_tokens=NEW_TOKENS)
            peak = torch.cuda.max_memory_allocated()
            plan = plan_memory(shape, method, length + NEW_TOKENS, Placement())
            row = {
                "method": method.name, "tokens": length + NEW_TOKENS, "peak_bytes": peak,
                "plan_bytes": plan.total, "ratio": round(plan.total / peak, 4),
            }  # fmt: skip
            rows.append(row)
            print(json.dumps(row), flush=True)
            save_rows(asked.out, about, rows)
    return int(any(abs(row["ratio"] - 1) > TOLERANCE for row in rows))


def _facts(model: str, commit: str | None) -> dict[str, object]:
    return {
        "shape": model,
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "commit": commit or head(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


if __name__ == "__main__":
    raise SystemExit(main())
