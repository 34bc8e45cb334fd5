"""Queries and keys of a real model that reads real text, for the bench (K3i, K7).

    python scripts/gpu_real_keys.py MODEL --tokens 131072 524288 --out /tmp/keys
    python -m reattention_kernels.bench K3i K7 --keys /tmp/keys-131072.pt /tmp/keys-524288.pt

The text is read once, to the greatest length, by ReAttention; a file for each length holds the
un-rotated queries of its last 512 tokens and all keys, of three layers: {"model", "tokens", "text",
"layers": {number: {"query": [H, 512, D], "key": [Hkv, tokens, D]}}}.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reattention_eval import attach
from reattention_eval.checkpoints import load_model
from reattention_eval.datasets.haystack import iter_haystack
from reattention_eval.errors import DataError
from reattention_eval.methods import build_method

CHUNK, LAYERS = 512, (4, 13, 22)


class Recorder:
    """Keeps what chosen layers project: all keys, and the queries before each of `lengths`.

    The projections' outputs are un-rotated; a model that normalises queries and keys gives those.
    """

    def __init__(self, model: Any, layers: Sequence[int], lengths: Sequence[int]) -> None:
        self._model, self._layers, self._lengths = model, layers, sorted(lengths)
        shape = model.config
        self._dim = getattr(shape, "head_dim", None) or (
            shape.hidden_size // shape.num_attention_heads
        )
        self._parts: dict[tuple[int, str], list[tuple[int, Tensor]]] = {}
        self._seen: dict[tuple[int, str], int] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        handles = []
        for number in self._layers:
            attention = self._model.model.layers[number].self_attn
            for name in ("q", "k"):
                self._parts[number, name], self._seen[number, name] = [], 0
                source = getattr(attention, f"{name}_norm", None)
                source = source or getattr(attention, f"{name}_proj")
                handles.append(source.register_forward_hook(self._hook(number, name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, number: int, name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            start = self._seen[number, name]
            own = output.reshape(output.shape[1], -1, self._dim)  # [T, heads, D], one row
            stop = self._seen[number, name] = start + len(own)
            if name == "k":
                self._parts[number, name].append((start, own.clone()))
                return
            for length in self._lengths:
                first, last = max(start, length - CHUNK), min(stop, length)
                if first < last:
                    part = own[first - start : last - start].clone()
                    self._parts[number, name].append((first, part))

        return keep

    def layer(self, number: int, length: int) -> dict[str, Tensor]:
        """query [H, CHUNK, D] and key [Hkv, length, D], on the CPU."""
        return {
            "query": self._joined(number, "q", length - CHUNK, length),
            "key": self._joined(number, "k", 0, length),
        }

    def _joined(self, number: int, name: str, first: int, last: int) -> Tensor:
        at, pieces = first, []
        for start, part in sorted(self._parts[number, name], key=lambda part: part[0]):
            stop = min(start + len(part), last)
            if start <= at < stop:
                pieces.append(part[at - start : stop - start])
                at = stop
        if at != last:
            raise RuntimeError(
                f"layer {number} projected {name} of {first} to {at}, not to {last}."
            )
        return torch.cat(pieces).transpose(0, 1).contiguous().cpu()


def read_ids(tokenizer: Any, source: str, tokens: int) -> list[int]:
    """The first `tokens` tokens of a haystack's texts, one after another."""
    ids: list[int] = []
    for part in iter_haystack(source):
        ids += tokenizer(part.text, add_special_tokens=False).input_ids
        if len(ids) >= tokens:
            return ids[:tokens]
    raise DataError(f"{source} holds {len(ids):,} tokens, {tokens:,} are wanted; name more texts.")


def dump(
    model: Any, ids: list[int], method: Any, lengths: Sequence[int], layers: Sequence[int]
) -> dict[int, dict[int, dict[str, Tensor]]]:
    """length, at least CHUNK -> layer -> what `Recorder.layer` gives."""
    recorder = Recorder(model, layers, lengths)
    with attach(model, method) as session, recorder.listening():
        session.prefill(torch.tensor([ids[: max(lengths)]]))
    return {n: {number: recorder.layer(number, n) for number in layers} for n in lengths}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="folder of a checkpoint, or an embedded model's name")
    parser.add_argument("--tokens", type=int, nargs="+", default=[131_072, 524_288])
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS)
    parser.add_argument(
        "--text", default="essays+shakespeare", help="names or files, joined by +, read in turn"
    )
    parser.add_argument("--out", type=Path, required=True, help="files are OUT-TOKENS.pt")
    asked = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, tokenizer = load_model(asked.model)
    model = model.to(device)  # type: ignore[arg-type]
    ids = read_ids(tokenizer, asked.text, max(asked.tokens))
    start = time.perf_counter()
    found = dump(model, ids, build_method("reattention"), asked.tokens, asked.layers)
    print(f"{max(asked.tokens):,} tokens read in {time.perf_counter() - start:.1f} s", flush=True)
    for tokens, layers in found.items():
        path = asked.out.with_name(f"{asked.out.name}-{tokens}.pt")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(
            {"model": Path(asked.model).name, "tokens": tokens, "text": asked.text,
             "layers": layers}, path,
        )  # fmt: skip
        print(f"written: {path}", flush=True)


if __name__ == "__main__":
    main()
