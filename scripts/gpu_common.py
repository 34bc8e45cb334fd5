"""What the GPU scripts share: the commit they ran, a random model, records that grow by rows."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent


def head() -> str | None:
    """The checkout's commit; None in a copy without Git history."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=REPO, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


def random_model(name: str) -> Any:
    """Random bf16 weights on the GPU, in the shape of one of the paper's models."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from reattention_eval.checkpoints.miniature import CONFIGS

    config = dict(CONFIGS[name])
    settings = AutoConfig.for_model(config.pop("model_type"), **config)
    with torch.device("cuda"):
        return AutoModelForCausalLM.from_config(settings, dtype=torch.bfloat16).eval()


def save_rows(out: Path | None, about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Call after each row: a run that is cut short keeps what it has."""
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
