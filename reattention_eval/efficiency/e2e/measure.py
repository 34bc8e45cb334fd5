"""The measurement: every form at every length, warmed up, in turns, each run kept at once."""

from __future__ import annotations

import gc
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from reattention_eval.cache import DEVICE
from reattention_eval.cache.tiers import TierBytes
from reattention_eval.efficiency.e2e.agreement import digest
from reattention_eval.efficiency.e2e.estimate import (
    WARM_DECODE,
    WARM_STEPS,
    Effort,
    Estimate,
)
from reattention_eval.efficiency.e2e.forms import Form
from reattention_eval.efficiency.e2e.kept_memory import KeptHostMemory
from reattention_eval.efficiency.e2e.meters import HostTime, host_peak, restart_host_peak
from reattention_eval.efficiency.e2e.prompts import prompt
from reattention_eval.efficiency.e2e.record import BUSY_HOST, E2ERecord
from reattention_eval.efficiency.e2e.room import least_bytes, why_not
from reattention_eval.efficiency.e2e.words import said
from reattention_eval.efficiency.shape import ModelShape
from reattention_eval.engine import Session
from reattention_eval.engine.hooked import HookedSession
from reattention_eval.errors import DeviceMemoryError, HostMemoryError
from reattention_eval.machine_memory import is_host_full, main_memory
from reattention_eval.weight_parts import held_bytes

THOUSAND = 1000  # tokens of a long answer whose speed and memory are kept


class Bench:
    """Cells of one model in one environment.

    Args:
        say: is told a line for each run.
        problems: what is wrong with the card now; asked after each run, which is then not kept.
        estimate: what cells will take, where `effort` says until when.
        joules: between two times of `time.perf_counter`; None where nobody measures them.
        ballast: bytes of the card that are held only so that the measurement has no more.
        text: token ids [1, n] of a text that prompts begin; random tokens without.

    Attributes:
        left: cells that were left out for want of time, as a person reads them.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        record: E2ERecord,
        environment: int,
        effort: Effort,
        say: Callable[[str], None],
        problems: Callable[[], list[str]] = list,
        estimate: Estimate | None = None,
        joules: Callable[[float, float], float | None] = lambda start, stop: None,
        ballast: int = 0,
        text: Tensor | None = None,
    ) -> None:
        self.model, self.record, self.environment = model, record, environment
        self.effort, self.say, self.problems = effort, say, problems
        self.estimate, self.joules, self.ballast, self.text = estimate, joules, ballast, text
        self.device = model.device
        self.weights = held_bytes(model)
        self.left: list[str] = []
        self._warm: set[tuple[str, int]] = set()
        self._host = KeptHostMemory()

    def measure(self, cells: Sequence[tuple[Form, int]]) -> list[str]:
        """Each (form, tokens); forms of one length take turns. Returns what is wrong with the card,
        which ends the measurement; cells that an earlier run has measured are left as they are."""
        for tokens in dict.fromkeys(tokens for _, tokens in cells):
            forms = [form for form, at in cells if at == tokens]
            open_cells = [(form, self._cell(form, tokens)) for form in forms]
            for _, cell in open_cells:
                if cell.pop("host_full", False):  # by others, who may be gone
                    del cell["out_of_memory"]
            open_cells = [(form, cell) for form, cell in open_cells if self._wanting(cell)]
            for form, cell in list(open_cells):
                warm = form.name, min(self.effort.warm_up, tokens)
                new = warm not in self._warm
                if self._no_room(form, cell) or not self._has_time(form, cell, new):
                    open_cells.remove((form, cell))
                elif new:
                    self._run(form, warm[1], cell, warm=True)
                    self._warm.add(warm)
            for turn in range(self.effort.repeats):
                for form, cell in open_cells:
                    if self._wanting(cell) and (not turn or self._has_time(form, cell, False)):
                        self._run(form, tokens, cell, warm=False)
                    if found := self.problems():
                        if cell["runs"]:
                            cell["runs"].pop()
                        self.record.save()
                        return found
        return []

    def _cell(self, form: Form, tokens: int) -> dict[str, Any]:
        cell = self.record.cell(form.label, tokens, self.environment, form.cache)
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

    def _has_time(self, form: Form, cell: dict[str, Any], warm_up: bool) -> bool:
        """Whether one more run, with the warm-up, ends in time; noted where a cell has none."""
        if self.effort.until is None:
            return True
        runs, tokens = cell["runs"], cell["tokens"]
        needs = None
        if runs:
            needs = runs[-1]["seconds"]
        elif self.estimate is not None:
            needs = self.estimate.run_seconds(form, tokens, self.effort.decode)
            if warm_up and needs is not None:
                needs += self.estimate.warm_seconds(form, tokens, self.effort) or 0.0
        has = self.effort.until - time.monotonic()
        if has > (needs or 0.0):
            return True
        if not runs:
            about = "" if needs is None else f" (about {needs:,.0f} s)"
            self.left.append(f"{form.name} at {tokens:,}{about}")
        return False

    def _no_room(self, form: Form, cell: dict[str, Any]) -> bool:
        """Whether memory is too small for it by arithmetic, which is then its result."""
        needs, memory = self._least(form, cell["tokens"]), self._memory()
        why = why_not(needs, memory, self._host_memory(form))
        if why is None:
            return False
        cell |= {"out_of_memory": why, "host_full": why_not(needs, memory, None) is None}
        self.record.save()
        self.say(f"{form.name} at {cell['tokens']:,}: {said(cell)}")
        return True

    def _run(self, form: Form, tokens: int, cell: dict[str, Any], *, warm: bool) -> None:
        """One prompt; out of memory is a result."""
        try:
            most = WARM_DECODE if warm else self.effort.decode
            run = self._prompt(form, tokens, min(most, self.effort.decode))
            if not warm:
                cell["runs"].append(run)
        except torch.OutOfMemoryError as error:
            cell["out_of_memory"] = str(error).split(". ")[0]
            torch.cuda.empty_cache()
        except (HostMemoryError, DeviceMemoryError) as error:
            full = isinstance(error, HostMemoryError)
            cell |= {"out_of_memory": str(error), "host_full": full}
        except (MemoryError, RuntimeError) as error:
            if is_host_full(error):
                cell |= {"out_of_memory": "the host took no more memory", "host_full": True}
            elif "No available kernel" not in str(error):
                raise
            else:
                cell["failed"] = str(error).split(". ")[0]
        gc.collect()
        self.record.save()
        self.say(f"{form.name} at {tokens:,}{', warm-up' if warm else ''}: {said(cell, warm)}")

    def _ids(self, tokens: int) -> Tensor:
        if self.text is None:
            return prompt(tokens, self.model.config.vocab_size)
        return self.text[:, :tokens]

    def _prompt(self, form: Form, tokens: int, decode: int) -> dict[str, Any]:
        began = time.perf_counter()
        ids = self._ids(tokens).to(self.device)
        decode = 0 if form.whole else decode
        taken, seconds = self._host.taken, self._host.seconds
        with form.session(self.model) as session:
            self._host.serve(session)
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
            counts = restart_host_peak()
            host = HostTime()
            start = self._now()
            with session.watching_views() as views:  # keeps the last ones; nothing waits for it
                logits = session.prefill(ids, max_new_tokens=WARM_STEPS + decode)
                first = self._now()
                seen = _digest(views())
            found = {"ttft_seconds": first - start, "logits": digest(logits)}
            found |= {"prompt_joules": self.joules(start, first), "selected": seen}
            if decode:
                found |= self._decode(session, logits, decode)
            found[BUSY_HOST] = host.others()
            stats = session.stats
            found["host_peak_bytes"] = host_peak() if counts else None
            if isinstance(session, HookedSession):
                found |= on_host(session)
        # pinned by this run, and how long the host was at it
        found["host_taken_bytes"] = self._host.taken - taken
        found["host_taken_seconds"] = self._host.seconds - seconds
        found |= self._peak(stats.cache_bytes)
        found["layer_steps_selected"] = stats.layer_steps_selected
        found["mean_view"] = stats.mean_view
        found["forward_tokens"] = stats.forward_tokens
        return {**found, "seconds": time.perf_counter() - began}

    def _decode(self, session: Session, logits: Tensor, steps: int) -> dict[str, Any]:
        times: list[float] = []
        chosen: list[int] = []  # on the host: the device is left as it is
        held = []
        for step in range(WARM_STEPS + steps):
            start = self._now()
            if step == WARM_STEPS:
                began = start
            token = logits.argmax(-1, keepdim=True)
            logits = session.decode(token)
            if step >= WARM_STEPS:
                times.append(self._now() - start)
                chosen.append(int(token))
                if len(times) % THOUSAND == 0:
                    held.append(self._allocated())
        joules = self.joules(began, self._now())
        graphs = session._repeats.graphs if isinstance(session, HookedSession) else 0
        found: dict[str, Any] = {}
        if len(held) > 1:
            parts = [times[i : i + THOUSAND] for i in range(0, THOUSAND * len(held), THOUSAND)]
            found["thousands"] = [
                {"seconds": sum(part), "allocated_bytes": size}
                for part, size in zip(parts, held, strict=True)
            ]
        return {
            **found, "tpot_seconds": median(times), "decode_tokens": steps, "cuda_graphs": graphs,
            "answer": _digest([chosen]),
            "token_joules": None if joules is None else joules / steps,
        }  # fmt: skip

    def _peak(self, cache: int) -> dict[str, Any]:
        found = {"cache_bytes": cache}
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device) - self.ballast
            found |= {"peak_bytes": peak, "above_bytes": peak - self.weights - cache}
        return found

    def _allocated(self) -> int | None:
        if self.device.type != "cuda":
            return None
        return torch.cuda.memory_allocated(self.device) - self.ballast

    def _least(self, form: Form, tokens: int) -> TierBytes:
        shape = ModelShape(**self.record.data["shape"])
        return least_bytes(form, tokens, shape, self.weights, self.model.dtype.itemsize)

    def _memory(self) -> int | None:
        if self.device.type != "cuda":
            return None
        return torch.cuda.mem_get_info(self.device)[1] - self.ballast

    def _host_memory(self, form: Form) -> int | None:
        left = None if form.cache == DEVICE else main_memory()
        return None if left is None else left + self._host.free_bytes

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _digest(numbers: list[list[int]]) -> str:
    """Alike where these are."""
    return hashlib.sha256(repr(numbers).encode()).hexdigest()[:16]


def on_host(session: HookedSession) -> dict[str, Any]:
    """What of a run went to host memory; nothing where nothing did."""
    stats = session.stats
    if not stats.cache_host_bytes or session._hook.tier is None:
        return {}
    return {
        "host_bytes": stats.cache_host_bytes,
        "bytes_to_host": stats.bytes_to_host,
        "bytes_from_host": stats.bytes_from_host,
        "value_hits": stats.value_hits,
        "host_pinned": session._hook.tier.memory.pins,
        "layers_with_keys_on_host": sum(layer.keys_on_host for layer in session._hook.layers),
    }
