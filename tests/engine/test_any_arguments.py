"""Whatever arguments come: the reference's answer, or this project's own error, soon."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from products_by_row import products_by_row
from tiny_models import VOCABULARY, tiny_model

from reattention_eval import FullAttention, ReAttention, StreamingLLM, attach
from reattention_eval.errors import ReAttentionError
from reattention_eval.methods import build_method

SECONDS = 1.0
MODEL = products_by_row(tiny_model(layers=1))  # prompts hold tokens twice
OTHER = products_by_row(tiny_model(layers=1))  # the same weights, for the reference
MODEL.generation_config.eos_token_id = OTHER.generation_config.eos_token_id = None
METHODS: list[Any] = [
    ReAttention(global_size=2, local_size=8, span_size=4, max_spans=2, top_k=2, chunk_size=5),
    StreamingLLM(sink_size=1, window_size=17, chunk_size=4),
    FullAttention(chunk_size=7),
]
few = settings(max_examples=20, deadline=None, derandomize=True, database=None)
many = settings(
    max_examples=500, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)

odd = st.one_of(
    st.none(), st.booleans(), st.floats(), st.text(max_size=3), st.binary(max_size=3),
    st.integers(-(2**70), 2**70), st.just([]), st.just({}), st.just((1, 2)), st.just(print),
    st.just(object()), st.just(torch.tensor(3)), st.just(torch.ones(2, 2)),
)  # fmt: skip


def often(usual: st.SearchStrategy[Any], strange: st.SearchStrategy[Any] = odd) -> Any:
    """Nine times of ten what a caller means."""
    return st.integers(0, 9).flatmap(lambda i: usual if i else strange)


ids_in = st.integers(3, VOCABULARY - 1)


@st.composite
def id_tensors(draw: Any, tokens: int = 40) -> Any:
    rows, width = draw(st.integers(1, 3)), draw(st.integers(1, tokens))
    seed = draw(st.integers(0, 99))
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (rows, width), generator=generator)
    kind = draw(st.sampled_from(["plain"] * 8 + ["odd id", "dtype", "shape", "list"]))
    if kind == "odd id":
        ids[-1, -1] = draw(st.sampled_from([-1, -100, VOCABULARY, 2**40]))
    elif kind == "dtype":
        types = [torch.int32, torch.uint8, torch.float32, torch.bool, torch.complex64]
        ids = ids.to(draw(st.sampled_from(types)))
    elif kind == "shape":
        ids = draw(st.sampled_from([ids[0], ids[0, 0], ids[None], ids[:, :0], ids[:0]]))
    return ids.tolist() if kind == "list" else ids


@st.composite
def masks(draw: Any) -> Any:
    """Of an unknown shape as often as not; `fitting` makes them left padding where they can be."""
    return draw(st.sampled_from(["none", "none", "left", "left", "right", "empty row", "other"]))


def fitting(kind: str, ids: Any) -> Any:
    if kind == "none" or not isinstance(ids, torch.Tensor) or ids.ndim != 2 or not ids.numel():
        return None
    mask = torch.ones(ids.shape, dtype=torch.long)
    half = ids.shape[1] // 2
    if kind == "left":
        mask[0, :half] = 0
    elif kind == "right":
        mask[0, half:] = 0
    elif kind == "empty row":
        mask[-1] = 0
    else:
        mask = mask[:, 1:]
    return mask


def soon(call: Any) -> Any:
    """What the call answers, or None for this project's own error; anything else is a finding."""
    begun = time.process_time()
    try:
        return call()
    except ReAttentionError:
        return None
    finally:
        assert time.process_time() - begun < SECONDS


number = often(st.integers(0, 40))
method_settings = st.dictionaries(
    st.sampled_from(
        ["global_size", "local_size", "span_size", "top_k", "max_spans", "chunk_size", "sink_size",
         "window_size", "selection", "select_from", "score", "allow_beyond_window"]
    ),
    st.one_of(
        number, number, st.booleans(),
        st.sampled_from(["exact", "block_max", "local", "scope", "qk", "qkv_l1"]),
    ),
    max_size=8,
)  # fmt: skip


def check_method(kind: Any, fields: dict[str, Any]) -> None:
    """A method that can be built and attached answers, and within its scope as full attention."""
    name = kind if isinstance(kind, str) else None
    if name is not None:
        settings_ = {"type": name, "allow_beyond_window": True, **fields}
        if name == "full":
            settings_.pop("allow_beyond_window")
        method = soon(lambda: build_method(settings_))
    else:
        method = soon(lambda: build_method(kind))
    if method is None:
        return
    prompt = torch.arange(3, 40)[None]

    def run() -> Any:
        with attach(MODEL, method) as session:
            return session.prefill(prompt)

    found = soon(run)
    if found is not None:
        assert found.isfinite().all()
        if not method.selects(prompt.shape[1]):
            with attach(MODEL, METHODS[2]) as session:
                expected = session.prefill(prompt)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@st.composite
def session_calls(draw: Any) -> list[tuple[str, dict[str, Any]]]:
    calls = []
    for _ in range(draw(st.integers(1, 5))):
        name = draw(
            st.sampled_from(["prefill", "extend", "decode", "generate", "generate", "answer_nll"])
        )
        ids: Any = often(st.one_of(id_tensors(), st.just("next")))
        given_: dict[str, Any] = {"ids": draw(ids), "mask": draw(masks())}
        if name == "generate":
            for field, values in {
                "max_new_tokens": st.integers(1, 6), "temperature": st.sampled_from([0.0, 0.7]),
                "top_p": st.sampled_from([None, 0.5]), "top_k": st.sampled_from([None, 3]),
                "seed": st.integers(0, 9), "stop_token_ids": st.lists(ids_in, max_size=2),
                "streamer": st.none(), "stop": st.none(),
            }.items():  # fmt: skip
                numbers = st.sampled_from([-3, 0, 10**18, 2**70])
                strange = numbers if field == "max_new_tokens" else odd
                if draw(st.booleans()):
                    given_[field] = draw(often(values, strange))
        elif name == "answer_nll":
            given_["ids"] = draw(often(st.lists(ids_in, min_size=1, max_size=4)))
        calls.append((name, given_))
    return calls


class Reference:
    """The same calls by the rule: every row alone, in a session of its own, call after call."""

    def __init__(self, method: Any) -> None:
        self.method = method
        self.done: list[tuple[str, Any, Any]] = []  # calls that worked, since the last prompt

    def row(self, row: int) -> Any:
        """The last call's answer for one row."""
        with attach(OTHER, self.method) as session:
            for name, ids, more in self.done:
                one = None if ids is None else ids[row]
                found = getattr(session, name)(*([] if one is None else [one]), **more)
            return found


def rows_alone(ids: torch.Tensor, mask: Any) -> list[torch.Tensor]:
    real = torch.ones_like(ids) if mask is None else mask
    return [ids[row][real[row].bool()][None].long() for row in range(len(ids))]


def check_session(method: Any, calls: list[tuple[str, dict[str, Any]]]) -> None:
    reference = Reference(method)
    with attach(MODEL, method) as session:
        for name, given_ in calls:
            ids, more = given_["ids"], {k: v for k, v in given_.items() if k not in ("ids", "mask")}
            if isinstance(ids, str) and ids == "next":
                ids = torch.full((max(1, len(session.lengths)), 1), 7)
                ids = None if name == "generate" else ids
            mask = fitting(given_["mask"], ids) if name != "decode" else None
            masked = {} if name in ("decode", "answer_nll") else {"attention_mask": mask}
            found = soon(lambda: getattr(session, name)(ids, **masked, **more))  # noqa: B023
            if found is None:
                continue
            if name == "answer_nll":
                with attach(OTHER, method) as other:
                    for past, past_ids, past_more in reference.done:
                        one = [] if past_ids is None else [past_ids[0]]
                        getattr(other, past)(*one, **past_more)
                    assert found == pytest.approx(other.answer_nll(ids), abs=1e-9)
                continue
            if name == "prefill" or (name == "generate" and ids is not None):
                reference.done.clear()
            reference.done.append((name, None if ids is None else rows_alone(ids, mask), more))
            greedy = not any(call[2].get("temperature") for call in reference.done)
            if name != "generate" or greedy:
                compare(name, found, reference, greedy)


def compare(name: str, found: torch.Tensor, reference: Reference, greedy: bool) -> None:
    if not greedy:
        return
    for row in range(len(found)):
        alone = reference.row(row)[0]
        if name == "generate":
            assert torch.equal(found[row, : len(alone)], alone)
        else:
            torch.testing.assert_close(found[row], alone, rtol=0, atol=1e-9)


kinds = often(st.sampled_from(["reattention", "streaming_llm", "full"]), odd)
a_method = st.sampled_from(METHODS)


@few
@given(kinds, method_settings)
def test_any_method(kind: Any, fields: dict[str, Any]) -> None:
    check_method(kind, fields)


@few
@given(a_method, session_calls())
def test_any_session(method: Any, calls: Any) -> None:
    check_session(method, calls)


@pytest.mark.slow
@many
@given(kinds, method_settings)
def test_many_methods(kind: Any, fields: dict[str, Any]) -> None:
    check_method(kind, fields)


@pytest.mark.slow
@many
@given(a_method, session_calls())
def test_many_sessions(method: Any, calls: Any) -> None:
    check_session(method, calls)
