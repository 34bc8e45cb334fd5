"""One process of gpu_scale.py: builds random models in real shapes, checks them, times them."""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from gpu_scale_models import Models

from reattention_eval import FullAttention, ReAttention, attach
from reattention_eval.parallel import Ranks, join

# relative error of logits. Sums over processes round differently; a random model's votes are full
# of near ties, and one span more or less moves every logit behind it
ALLOWED = {
    (torch.float32, "full"): 1e-4,
    (torch.float32, "reattention"): 1e-2,
    (torch.bfloat16, "full"): 0.05,
    (torch.bfloat16, "reattention"): 0.2,
}
WARM_STEPS = 8


class Worker:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        spread = args.way == "tensor_parallel"
        first = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
        self.ranks = join(args.gpus) if spread else Ranks(0, 1, first)
        self.devices = [first]
        if args.way == "device_map" and first.type == "cuda":
            self.devices = [torch.device("cuda", i) for i in range(args.gpus)]
        self.models = Models(args.way, self.ranks, self.devices, args.tiny)

    def run(self, job: str) -> None:
        if not self._time_left():
            self._record(job, {"skipped": "no time left"})
            return
        try:
            if job == "check":
                for dtype in (torch.float32, torch.bfloat16):
                    self.check(dtype)
            else:
                model, length, method = job.split(":")
                self.measure(job, model, int(length), method)
        except Exception as error:
            self._record(job, {"agrees": False, "error": f"{type(error).__name__}: {error}"})
            if self.ranks.size > 1:
                raise  # the other processes wait in the middle of a forward
            traceback.print_exc()
        gc.collect()  # a spread model's hooks refer to its modules and they to the hooks
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # -- the same answer ---------------------------------------------------------------------

    def check(self, dtype: torch.dtype) -> None:
        """Logits and tokens of a mid-size model against those of a single GPU, kept in a file."""
        length, chunk = (300, 32) if self.args.tiny else (12288, 512)
        config = self.models.config("check")
        settings = dict(global_size=32, local_size=1024, span_size=32, max_spans=31)
        if self.args.tiny:
            settings = dict(global_size=4, local_size=64, span_size=4, max_spans=8)
        prompt = self.models.prompt(config, length)
        answers: dict[str, Any] = {}
        for method in (FullAttention(chunk_size=chunk), ReAttention(**settings, chunk_size=chunk)):
            model = self.models.whole_then_spread(config, dtype)
            with self._attached(model, method) as session:
                logits = [session.prefill(prompt)]
                for token in (5, 6, 7, 8):
                    logits.append(session.decode(torch.tensor([[token]])))
                tokens = session.generate(prompt, 16, reuse_prefix=False)[0].tolist()
                answers[method.name] = {
                    "logits": torch.cat(logits).float().cpu(),
                    "tokens": tokens,
                    "mean_view": session.stats.mean_view,
                    "selected": session.stats.layer_steps_selected,
                    "graphs": session._repeats.graphs,
                }
            del model
        kept = Path(self.args.scratch) / f"{dtype}.pt"
        if self.args.way == "one":
            torch.save(answers, kept)
        else:
            self._compare(dtype, answers, torch.load(kept, weights_only=True))

    def _compare(self, dtype: torch.dtype, found: dict, single: dict) -> None:
        for method, own in found.items():
            want = single[method]
            allowed = ALLOWED[dtype, method]
            error = float((own["logits"] - want["logits"]).norm() / want["logits"].norm())
            same = sum(a == b for a, b in zip(own["tokens"], want["tokens"], strict=False))
            agrees = error < allowed and own["selected"] == want["selected"]
            agrees = agrees and own["tokens"][0] == want["tokens"][0]
            name = str(dtype).removeprefix("torch.")
            self._record(
                f"check:{method}:{name}",
                {
                    "agrees": bool(agrees),
                    "relative_error_of_logits": error,
                    "allowed": allowed,
                    "same_tokens": f"{same} of {len(want['tokens'])}",
                    "layer_steps_selected": own["selected"],
                    "cuda_graphs": [own["graphs"], want["graphs"]],
                    "mean_view": [own["mean_view"], want["mean_view"]],
                },
            )

    # -- how fast ----------------------------------------------------------------------------

    def measure(self, job: str, shape: str, length: int, method_name: str) -> None:
        config = self.models.config(shape)
        method = self._method(method_name)
        prompt = self.models.prompt(config, length)
        self._compile_kernels(shape, method, prompt)
        start = time.perf_counter()
        model = self.models.random(config)
        self._wait()
        made = time.perf_counter() - start
        with self._attached(model, method) as session:
            session.prefill(prompt, max_new_tokens=self.args.decode + WARM_STEPS)
            for token in range(WARM_STEPS):  # a CUDA graph may be captured here
                session.decode(torch.tensor([[token]]))
            before = session.stats.decode_seconds
            for token in range(self.args.decode):
                session.decode(torch.tensor([[token]]))
            stats, graphs = session.stats, session._repeats.graphs
        spans = [dict(zip(("peak", "held"), self._memory(d), strict=True)) for d in self.devices]
        self._record(
            job,
            {
                "model": shape,
                "tokens": length,
                "method": method_name,
                "settings": method.settings(),
                "weights_made_seconds": made,
                "ttft_seconds": stats.prefill_seconds,
                "prefill_tokens_per_second": length / stats.prefill_seconds,
                "tpot_seconds": (stats.decode_seconds - before) / self.args.decode,
                "decoded_tokens": self.args.decode,
                "cuda_graphs": graphs,
                "mean_view": stats.mean_view,
                "layer_steps": stats.layer_steps,
                "layer_steps_selected": stats.layer_steps_selected,
                "peak_bytes_per_gpu": [s["peak"] for s in self._of_all(spans)],
                "cache_bytes_a_process": stats.cache_bytes,
            },
        )

    def _compile_kernels(self, shape: str, method: Any, prompt: torch.Tensor) -> None:
        """Few layers of the same shape read the same prompt, so that the timed one waits for no
        compiler."""
        model = self.models.random(
            self.models.config(shape, num_hidden_layers=max(2, len(self.devices)))
        )
        with self._attached(model, method) as session:
            session.prefill(prompt, max_new_tokens=WARM_STEPS)
            for token in range(WARM_STEPS):
                session.decode(torch.tensor([[token]]))
        del model, session
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            for device in self.devices:
                torch.cuda.reset_peak_memory_stats(
                    self.ranks.device if self.args.way == "tensor_parallel" else device
                )

    @contextmanager
    def _attached(self, model: Any, method: Any) -> Iterator[Any]:
        with attach(model, method) as session:
            if self.args.no_graphs:
                session._repeats.close()
            yield session

    def _method(self, name: str) -> Any:
        chunk = 32 if self.args.tiny else self.args.chunk
        if name == "full":
            return FullAttention(chunk_size=chunk)
        if self.args.tiny:
            return ReAttention(4, 64, 4, 4, 8, chunk_size=chunk)
        # the paper's setting for models with a large window: scope 16,416
        return ReAttention(32, max(8192, chunk), 32, 4, 256, chunk_size=chunk)

    # -- small things ------------------------------------------------------------------------

    def _memory(self, device: torch.device) -> tuple[int, int]:
        if device.type != "cuda":
            return 0, 0
        device = self.ranks.device if self.args.way == "tensor_parallel" else device
        return torch.cuda.max_memory_allocated(device), torch.cuda.memory_allocated(device)

    def _of_all(self, own: list[Any]) -> list[Any]:
        """The lists of all processes, one after another."""
        if self.ranks.size == 1:
            return own
        lists: list[Any] = [None] * self.ranks.size
        dist.all_gather_object(lists, own)
        return [entry for part in lists for entry in part]

    def _wait(self) -> None:
        for device in self.devices:
            if device.type == "cuda":
                torch.cuda.synchronize(self.ranks.device if self.ranks.size > 1 else device)

    def _time_left(self) -> bool:
        return self._first_says(time.time() < self.args.deadline)

    def _first_says(self, yes: bool) -> bool:
        """The first process decides for all."""
        word = torch.tensor([float(yes and self.ranks.rank == 0)], device=self.ranks.device)
        return float(self.ranks.sum(word)) > 0

    def _record(self, job: str, result: dict[str, Any]) -> None:
        if self.ranks.rank:
            return
        path = Path(self.args.out)
        record = json.loads(path.read_text())
        record["versions"] = versions()
        record["devices"] = [
            torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())
        ] or ["cpu"]
        key = f"{job} {self.args.way} {self.args.gpus}"
        record["results"][key] = {"way": self.args.way, "gpus": self.args.gpus, **result}
        part = path.with_suffix(".part")
        part.write_text(json.dumps(record, indent=1) + "\n")
        os.replace(part, path)
        print(key, json.dumps(result), flush=True)


def versions() -> dict[str, str | None]:
    import transformers

    try:
        import triton

        found = triton.__version__
    except ImportError:
        found = None
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
        "triton": found,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobs", nargs="+", help="`check`, or MODEL:LENGTH:METHOD")
    parser.add_argument("--out", required=True)
    parser.add_argument("--scratch", required=True, help="the first way's answers, for the others")
    parser.add_argument("--way", choices=["one", "tensor_parallel", "device_map"], required=True)
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--deadline", type=float, required=True)
    parser.add_argument("--chunk", type=int, required=True)
    parser.add_argument("--decode", type=int, required=True)
    parser.add_argument("--no-graphs", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    worker = Worker(parser.parse_args())
    for job in worker.args.jobs:
        worker.run(job)
    if dist.is_initialized():
        dist.destroy_process_group()
