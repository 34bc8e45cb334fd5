"""The measurement: every form at every length, warmed up, in turns, each run kept at once."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from reattention_eval.efficiency.e2e.agreement import digest
from reattention_eval.efficiency.e2e.forms import Form
from reattention_eval.efficiency.e2e.record import E2ERecord
from reattention_eval.engine import Session
from reattention_eval.engine.hooked import HookedSession

WARM_STEPS = 8  # a CUDA graph is captured within them
GIB = 2**30


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        repeats: runs of a cell.
        patience: seconds; once a cell's runs took longer in sum, it gets no further one.
        decode: tokens that are timed behind the prompt; 0 for none.
        warm_up: tokens of each form's first, untimed prompt, at most the length's own.
    """

    repeats: int = 3
    patience: float = 60.0
    decode: int = 64
    warm_up: int = 32_768


def prompt(tokens: int, vocabulary: int) -> Tensor:
    """[1, tokens], the same for every form and on every machine; a longer one begins alike."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, vocabulary, (1, tokens), generator=generator)


class Bench:
    """Cells of one model in one environment.

    Args:
        say: is told a line for each run.
        problems: what is wrong with the card now; asked after each run, which is then not kept.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        record: E2ERecord,
        environment: int,
        effort: Effort,
        say: Callable[[str], None],
        problems: Callable[[], list[str]] = list,
    ) -> None:
        self.model, self.record, self.environment = model, record, environment
        self.effort, self.say, self.problems = effort, say, problems
        self.device = model.device
        self.weights = sum(p.numel() * p.element_size() for p in model.parameters())
        self._warm: set[tuple[str, int]] = set()

    def measure(self, cells: Sequence[tuple[Form, int]]) -> list[str]:
        """Each (form, tokens); forms of one length take turns. Returns what is wrong with the card,
        which ends the measurement; cells that an earlier run has measured are left as they are."""
        for tokens in dict.fromkeys(tokens for _, tokens in cells):
            forms = [form for form, at in cells if at == tokens]
            open_cells = [(form, self._cell(form, tokens)) for form in forms]
            open_cells = [(form, cell) for form, cell in open_cells if self._wanting(cell)]
            for form, cell in open_cells:
                warm = form.label, min(self.effort.warm_up, tokens)
                if warm not in self._warm:
                    self._run(form, warm[1], cell, warm=True)
                    self._warm.add(warm)
            for _ in range(self.effort.repeats):
                for form, cell in open_cells:
                    if self._wanting(cell):
                        self._run(form, tokens, cell, warm=False)
                    if found := self.problems():
                        if cell["runs"]:
                            cell["runs"].pop()
                        self.record.save()
                        return found
        return []

    def _cell(self, form: Form, tokens: int) -> dict[str, Any]:
        cell = self.record.cell(form.label, tokens, self.environment)
        settings = asdict(form.method)  # those too that change the speed alone
        cell |= {
            "method": form.method.name, "settings": settings, "full": form.full,
            "whole": form.whole is not None, "within_scope": not form.method.selects(tokens),
        }  # fmt: skip
        return cell

    def _wanting(self, cell: dict[str, Any]) -> bool:
        if cell.get("out_of_memory") or cell.get("failed"):
            return False
        runs = cell["runs"]
        spent = sum(run["seconds"] for run in runs)
        return not runs or (len(runs) < self.effort.repeats and spent < self.effort.patience)

    def _run(self, form: Form, tokens: int, cell: dict[str, Any], *, warm: bool) -> None:
        """One prompt; out of memory is a result."""
        needs, there = self._least(form, cell["tokens"]), self._memory()
        if there and needs > there:
            cell["out_of_memory"] = (
                f"needs more than {needs / GIB:.1f} GiB of {there / GIB:.1f}, by arithmetic"
            )
        else:
            try:
                run = self._prompt(form, tokens)
                if not warm:
                    cell["runs"].append(run)
            except torch.OutOfMemoryError as error:
                cell["out_of_memory"] = str(error).split(". ")[0]
                torch.cuda.empty_cache()
            except RuntimeError as error:
                if "No available kernel" not in str(error):
                    raise
                cell["failed"] = str(error).split(". ")[0]
        gc.collect()
        self.record.save()
        self.say(f"{form.label} at {tokens:,}{', warm-up' if warm else ''}: {said(cell, warm)}")

    def _prompt(self, form: Form, tokens: int) -> dict[str, Any]:
        began = time.perf_counter()
        ids = prompt(tokens, self.model.config.vocab_size).to(self.device)
        decode = 0 if form.whole else self.effort.decode
        with form.session(self.model) as session:
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
            start = self._now()
            logits = session.prefill(ids, max_new_tokens=WARM_STEPS + decode)
            first = self._now() - start
            found = {"ttft_seconds": first, "logits": digest(logits)}
            if decode:
                found |= self._decode(session, logits, decode)
            stats = session.stats
        found |= self._peak(stats.cache_bytes)
        found["layer_steps_selected"] = stats.layer_steps_selected
        found["mean_view"] = stats.mean_view
        found["forward_tokens"] = stats.forward_tokens
        return {**found, "seconds": time.perf_counter() - began}

    def _decode(self, session: Session, logits: Tensor, steps: int) -> dict[str, Any]:
        times = []
        for step in range(WARM_STEPS + steps):
            start = self._now()
            logits = session.decode(logits.argmax(-1, keepdim=True))
            if step >= WARM_STEPS:
                times.append(self._now() - start)
        graphs = session._repeats.graphs if isinstance(session, HookedSession) else 0
        return {"tpot_seconds": median(times), "decode_tokens": steps, "cuda_graphs": graphs}

    def _peak(self, cache: int) -> dict[str, Any]:
        found = {"cache_bytes": cache}
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            found |= {"peak_bytes": peak, "above_bytes": peak - self.weights - cache}
        return found

    def _least(self, form: Form, tokens: int) -> int:
        """Bytes that no implementation of transformers' decoder does without."""
        shape, size = self.record.data["shape"], self.model.dtype.itemsize
        cache = 2 * shape["layers"] * shape["kv_heads"] * shape["head_dim"]
        # of a whole prompt: gate, up and their product, the residual stream and its norm
        mlp = 3 * shape["intermediate"] + 2 * shape["hidden"] if form.whole else 0
        return self.weights + tokens * (cache + mlp) * size

    def _memory(self) -> int | None:
        return torch.cuda.mem_get_info()[1] if self.device.type == "cuda" else None

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def said(cell: dict[str, Any], warm: bool = False) -> str:
    """A cell's last run, or why there is none."""
    for why in ("out_of_memory", "failed"):
        if cell.get(why):
            return f"{why.replace('_', ' ')}: {cell[why]}"
    if warm or not cell["runs"]:
        return "done"
    run = cell["runs"][-1]
    parts = [f"TTFT {run['ttft_seconds']:.3f} s"]
    if "tpot_seconds" in run:
        parts.append(f"{1000 * run['tpot_seconds']:.2f} ms a token")
    if "peak_bytes" in run:
        parts.append(
            f"peak {run['peak_bytes'] / GIB:.2f} GiB, {run['above_bytes'] / GIB:.2f} above weights "
            "and cache"
        )
    return ", ".join(parts)
