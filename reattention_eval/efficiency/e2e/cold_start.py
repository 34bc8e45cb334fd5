"""What the first prompt of a fresh process waits for: kernels that are compiled for it.

A child process builds the model, attaches the method and reads one prompt twice; once with empty
compile caches, once with those that the first child left.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from reattention_eval.errors import ConfigError

CACHES = ("TRITON_CACHE_DIR", "CUDA_CACHE_PATH", "TORCHINDUCTOR_CACHE_DIR")
STATES = ("empty", "filled")
SAID = "cold start: "


@dataclass(frozen=True)
class ColdStart:
    """What is asked of a child: model, form and device as on the command line."""

    model: str
    form: str
    tokens: int
    dtype: str = "auto"
    device: str = "cuda"
    commit: str | None = None


def measure_cold(asked: ColdStart, say: Callable[[str], None]) -> dict[str, Any]:
    """What the children found: `about` and `environment` for the record, and for each of STATES
    the seconds of building, attaching, the first and the second prompt.

    Raises:
        ConfigError: a child failed; its words are in the message.
    """
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        caches = {name: str(Path(folder) / name) for name in CACHES}
        for state in STATES:
            child = _child(asked, {**os.environ, **caches})
            found |= {"about": child.pop("about"), "environment": child.pop("environment")}
            found[state] = child
            say(
                f"{asked.form} at {asked.tokens:,}, {state} caches: first prompt "
                f"{child['first_seconds']:.2f} s, second {child['second_seconds']:.2f} s; "
                f"attaching {child['attach_seconds']:.2f} s"
            )
    return found


def _child(asked: ColdStart, environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-m", __name__, json.dumps(asdict(asked))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(SAID)]
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise ConfigError(f"the cold start could not be measured: {last}")
    return json.loads(lines[-1].removeprefix(SAID))  # type: ignore[no-any-return]


def main(asked: ColdStart) -> dict[str, Any]:
    """The child's part."""
    import torch

    from reattention_eval.checkpoints.load import pick_dtype
    from reattention_eval.efficiency.e2e.agreement import digest, distance
    from reattention_eval.efficiency.e2e.forms import fitting_forms, parse_form
    from reattention_eval.efficiency.e2e.measure import prompt
    from reattention_eval.efficiency.e2e.models import about_model, bench_model
    from reattention_eval.efficiency.e2e.record import environment
    from reattention_eval.engine.kernels_ahead import compiling
    from reattention_kernels.bench import card

    device = torch.device(asked.device)
    if device.type == "cuda" and (found := card.sharing()):
        raise ConfigError("; ".join(found))

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    form, times = parse_form(asked.form), [now()]
    # as evaluations load a model: kernels are compiled meanwhile
    ahead = compiling(fitting_forms([form]), form.method, pick_dtype(asked.dtype))
    model = bench_model(asked.model, device, asked.dtype, ahead)
    times.append(now())
    ids = prompt(asked.tokens, model.config.vocab_size).to(device)
    with form.session(model) as session:
        times.append(now())
        logits = []
        for _ in range(2):
            logits.append(digest(session.prefill(ids)))
            times.append(now())
    if distance(*logits):
        raise ConfigError("the two prompts gave different logits, so nothing is reported.")
    names = ("build_seconds", "attach_seconds", "first_seconds", "second_seconds")
    return {
        **dict(zip(names, (b - a for a, b in pairwise(times)), strict=True)),
        "about": about_model(asked.model, model),
        "environment": environment(device, asked.commit),
    }


if __name__ == "__main__":
    from reattention_eval.errors import ReAttentionError

    try:
        print(SAID + json.dumps(main(ColdStart(**json.loads(sys.argv[1])))))
    except ReAttentionError as error:
        sys.exit(str(error))
