"""What tensor parallel has to answer as a single process does."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from repeats import repeat_without_gpu
from tiny_models import random_prompt, tiny_model

from reattention_eval import FullAttention, ReAttention, attach
from reattention_eval.cache import device_room
from reattention_eval.engine import decode_graph
from reattention_eval.engine.decode_graph import RepeatedDecode
from reattention_eval.errors import DeviceMemoryError
from reattention_eval.methods import ReAttentionPlus
from reattention_eval.parallel import Ranks

SMALL = dict(global_size=2, local_size=12, span_size=4, max_spans=3, top_k=2, chunk_size=8)
METHODS = {
    "full": FullAttention(chunk_size=8),
    "reattention": ReAttention(**SMALL),
    "votes": ReAttention(**SMALL, votes="mass", vote_memory=2),
    "by_head": ReAttention(**SMALL, per_kv_head=True),
    "plus": ReAttentionPlus(**SMALL, last_tokens=11),
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": dict(family="llama"),
    "llama_tied": dict(family="llama", tie_word_embeddings=True),
    "qwen2": dict(family="qwen2", heads=6),
    "qwen3": dict(family="qwen3"),
    "internlm2": dict(  # its Llama layout, with the bias some of its checkpoints have
        family="llama", attention_bias=True, rope_scaling={"rope_type": "dynamic", "factor": 2.0}
    ),
}


@dataclass(frozen=True)
class Case:
    family: str
    name: str

    @property
    def method(self) -> Any:
        return METHODS[self.name]

    def model(self) -> torch.nn.Module:
        settings = FAMILIES[self.family]
        model = tiny_model(**{"kv_heads": 2, **settings})
        generator = torch.Generator().manual_seed(3)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # transformers begins them with zeros
                parameter.data.normal_(generator=generator)
        return model


CASES = {
    name: Case(*name.rsplit("-", 1))
    for name in (
        "llama-full", "llama-reattention", "llama_tied-reattention", "qwen2-reattention",
        "qwen3-full", "internlm2-full", "internlm2-reattention", "llama-votes", "llama-by_head",
        "llama-plus",
    )
}  # fmt: skip


def answers(model: torch.nn.Module, method: Any) -> dict[str, Any]:
    """Logits of a prefill and three decode steps, generated tokens, positions chosen."""
    views: list[list[int]] = []
    prompt = random_prompt(45)
    with attach(model, method) as session, Watched(session, views):
        logits = [session.prefill(prompt)]
        for token in (5, 6, 7):
            logits.append(session.decode(torch.tensor([[token]])))
        greedy = session.generate(prompt, 4, reuse_prefix=False)
        batch = session.generate(
            torch.cat((prompt, prompt.flip(1))),
            3,
            attention_mask=torch.tensor([[1] * 45, [0] * 10 + [1] * 35]),
        )
        sampled = session.generate(prompt, 4, temperature=1.0, seed=4)
        own = model.generate(prompt, max_new_tokens=4, do_sample=False)[:, 45:]
        steps = session.stats.layer_steps_selected
    return {
        "logits": torch.cat(logits),
        "tokens": [t.tolist() for t in (greedy, batch, sampled, own)],
        "views": views,
        "selected": steps,
    }


def repeated_steps(model: torch.nn.Module, ranks: Ranks) -> dict[str, Any]:
    """Logits of decode steps launched, repeated, and where only the first process can repeat."""
    found: dict[str, Any] = {"launched": _steps(model)}
    with pytest.MonkeyPatch.context() as patch:
        found["rooms"] = repeat_without_gpu(patch)
        found["repeated"] = _steps(model)
        capture = RepeatedDecode._capture

        def fail(self: Any, step: Any, forward: Any) -> Any:
            captured = capture(self, step, forward)
            if ranks.rank:
                raise RuntimeError("no memory for a graph")
            return captured

        patch.setattr(RepeatedDecode, "_capture", fail)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found["one_fails"] = _steps(model)
        found["said"] = [str(w.message) for w in said if w.category is RuntimeWarning]
    return found


def refused_by_one(model: torch.nn.Module, ranks: Ranks) -> dict[str, Any]:
    """What is said where only the second process has no room for a prompt, and for an answer; an
    answer behind it."""
    said = []
    with attach(model, METHODS["reattention"]) as session:
        session.prefill(random_prompt(45))
        for read in (
            lambda: session.prefill(random_prompt(5000)),
            lambda: session.generate(max_new_tokens=5000),
            lambda: session.decode(torch.tensor([[5]])),
        ):
            with pytest.MonkeyPatch.context() as patch:
                if ranks.rank:
                    patch.setattr(device_room, "free_bytes", lambda device: 0)
                with pytest.raises(DeviceMemoryError) as refused:
                    read()
            said.append(str(refused.value))
        return {"said": said, "tokens": session.generate(max_new_tokens=5).tolist()}


def _steps(model: torch.nn.Module) -> torch.Tensor:
    with attach(model, METHODS["reattention"]) as session:
        logits = [session.prefill(random_prompt(45), max_new_tokens=32)]
        logits += [session.decode(torch.tensor([[token]])) for token in range(20)]
        return torch.cat(logits)


def smooth_model() -> torch.nn.Module:
    """In bf16, of a size that kernels take; not so peaky that a rounding changes every logit."""
    shape = dict(heads=8, kv_heads=2, head_dim=64, layers=3, window=8192)
    return tiny_model(dtype=torch.bfloat16, initializer_range=0.03, **shape)


def captured_steps(model: torch.nn.Module) -> dict[str, Any]:
    """On GPUs: logits of decode steps as CUDA graphs and launched, and how many graphs."""
    return {
        method.name: _captured_steps(model, method)
        for method in (ReAttention(4, 128, 8, 3, 9, chunk_size=64), FullAttention(chunk_size=64))
    }


def _captured_steps(model: torch.nn.Module, method: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_graph, "LEAST_CAPACITY", 16)
        for way in ("captured", "launched"):
            with attach(model, method) as session:
                logits = [session.prefill(random_prompt(700), max_new_tokens=64)]
                logits += [session.decode(torch.tensor([[token]])) for token in range(40)]
                found[way] = torch.cat(logits).float().cpu()
                found[f"{way}_graphs"] = session._repeats.graphs
            patch.setattr(type(method), "repeats_until", lambda self, length: 0)
    return found


class Watched:
    """Notes the positions of every view a session's method gives."""

    def __init__(self, session: Any, views: list[list[int]]) -> None:
        self._hook, self._views = session._hook, views

    def __enter__(self) -> None:
        self._policy = self._hook.policy
        self._hook.answers.policy = _Noting(self._policy, self._views)

    def __exit__(self, *error: object) -> None:
        self._hook.answers.policy = self._policy


class _Noting:
    def __init__(self, policy: Any, views: list[list[int]]) -> None:
        self._policy, self._views = policy, views

    def __getattr__(self, name: str) -> Any:
        if name == "views":  # chunk by chunk, so that each is noted
            raise AttributeError(name)
        return getattr(self._policy, name)

    def view(self, row: Any, query: torch.Tensor) -> Any:
        view = self._policy.view(row, query)
        if view is not None:
            positions = view.positions(row.length) if hasattr(view, "positions") else view
            self._views.append(positions.tolist())
        return view
