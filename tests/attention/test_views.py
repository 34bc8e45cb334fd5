"""Views of each kind, a made-up method for each, against loops: prefill, batch, decode."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from naive_views import NaiveViews, whole
from tiny_models import random_prompt, tiny_model

from reattention_eval import attach
from reattention_eval.attention import View
from reattention_eval.errors import ConfigError, SelectionError
from reattention_eval.methods import ViewMethod

CHUNK = 5
RATIOS = [(2, 2), (6, 2), (4, 1), (7, 1)]


@dataclass(frozen=True)
class LongestKeys(ViewMethod):
    """Per KV head: the 6 longest keys before the chunk, and the chunk."""

    name = "longest_keys"
    source = "this test"

    @property
    def budget(self):
        return 6 + self.chunk_size

    def view(self, row, query):
        before = row.length - query.shape[1]
        best = row.key[:, :before].norm(dim=-1).topk(6).indices.sort(-1).values
        chunk = torch.arange(before, row.length).expand(len(best), -1)
        return View(torch.cat((best, chunk), 1))


@dataclass(frozen=True)
class Grouped(ViewMethod):
    """All keys; those further than 9 from the end share a place in threes (as SelfExtend)."""

    name = "grouped"
    source = "this test"

    @property
    def budget(self):
        return None

    @property
    def whole_until(self):
        return 9

    def view(self, row, query):
        n, t = row.length, query.shape[1]
        far = (n - 9 + 2) // 3
        places = torch.cat((torch.arange(n - 9) // 3, far + torch.arange(9)))
        return View(torch.arange(n), places, places[n - t :], far + 9)


@dataclass(frozen=True)
class OwnPlaces(ViewMethod):
    """The last 8 tokens; head h counts them in steps of h + 1, downwards, queries from 40."""

    name = "own_places"
    source = "this test"

    @property
    def budget(self):
        return 8

    def view(self, row, query):
        heads = torch.arange(row.key.shape[0])[:, None]
        places = 20 - 2 * torch.arange(8) + heads * 3
        return View(torch.arange(row.length - 8, row.length), places, 40 + query_steps(query), 60)


def query_steps(query):
    return torch.arange(query.shape[1])


def seen_longest(keys, kv, t):
    n = len(keys)
    if n <= 6 + CHUNK:
        return whole(n, t)
    order = sorted(range(n - t), key=lambda j: -float(keys[j].norm()))
    positions = sorted(order[:6]) + list(range(n - t, n))
    return positions, list(range(6 + t)), list(range(6, 6 + t))


def seen_grouped(keys, kv, t):
    n = len(keys)
    if n <= 9:
        return whole(n, t)
    far = math.ceil((n - 9) / 3)
    places = [j // 3 if j < n - 9 else far + j - (n - 9) for j in range(n)]
    return list(range(n)), places, places[n - t :]


def seen_own(keys, kv, t):
    n = len(keys)
    if n <= 8:
        return whole(n, t)
    return (
        list(range(n - 8, n)),
        [20 - 2 * i + 3 * kv for i in range(8)],
        [40 + i for i in range(t)],
    )


PAIRS = [
    (LongestKeys(chunk_size=CHUNK), seen_longest),
    (Grouped(chunk_size=CHUNK), seen_grouped),
    (OwnPlaces(chunk_size=CHUNK), seen_own),
]
by_kind = pytest.mark.parametrize(("method", "seen"), PAIRS, ids=lambda x: getattr(x, "name", ""))


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)  # RoPE angles are in float32


@by_kind
@pytest.mark.parametrize(("heads", "kv_heads"), RATIOS, ids=str)
def test_against_loops(method, seen, heads, kv_heads):
    model = tiny_model(heads=heads, kv_heads=kv_heads)
    prompt = random_prompt(33)
    naive = NaiveViews(model, seen, CHUNK)
    with attach(model, method) as session:
        close(session.prefill(prompt)[0], naive.prefill(prompt[0].tolist()))
        for token in (5, 71):
            close(session.decode(torch.tensor([[token]]))[0], naive.chunk([token]))
        stats = session.stats
        assert stats.layer_steps == 2 * 9
        assert stats.layer_steps_selected == sum(
            2 for n in (5, 10, 15, 20, 25, 30, 33, 34, 35) if method.selects(n)
        )
        if method.name == "own_places":
            assert stats.mean_view == (5 + 8 * 8) / 9


@by_kind
def test_batch_with_padding(method, seen):
    """Rows of 28, 11 and 1 tokens, each as alone, two tokens decoded."""
    model = tiny_model()
    lengths = (28, 11, 1)
    prompts = random_prompt(28, rows=3)
    mask = torch.tensor([[0] * (28 - n) + [1] * n for n in lengths])
    with attach(model, method) as session:
        found = session.prefill(prompts, attention_mask=mask)
        after = session.decode(torch.tensor([[5], [6], [7]]))
    for row, n in enumerate(lengths):
        naive = NaiveViews(model, seen, CHUNK)
        close(found[row], naive.prefill(prompts[row, 28 - n :].tolist()))
        close(after[row], naive.chunk([5 + row]))


def test_scaling_that_follows_the_length_takes_the_extent_for_it():
    """Dynamic NTK: places below 60 in a window of 32 are places of a prompt of 60 tokens."""
    model = tiny_model(window=32, rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    method, prompt = OwnPlaces(chunk_size=CHUNK), random_prompt(33)
    with attach(model, method) as session:
        found = session.prefill(prompt)[0]

    class Told(NaiveViews):
        def turn(self, position, half):
            n = len(self.keys[0])
            rotary = type(model.model.rotary_emb)(model.config)
            told = torch.tensor([[position, 59 if n > 8 else n - 1]])
            cos, sin = rotary(torch.zeros(1, dtype=torch.float64), told)
            return cos[0, 0, :half], sin[0, 0, :half]

    close(found, Told(model, seen_own, CHUNK).prefill(prompt[0].tolist()))


def broken(view):
    return type("Broken", (OwnPlaces,), {"view": view, "name": "broken"})(chunk_size=CHUNK)


LAST = torch.arange(25, 33)
WRONG = {
    "float": (lambda row, q: View(row.key[0, :, 0]), "not int64"),
    "heads": (lambda row, q: View(torch.arange(row.length).repeat(3, 1)), "not int64 .n. or .2, n"),
    "chunk": (lambda row, q: View(torch.arange(row.length - 1)), "does not end with the chunk's"),
    "short": (lambda row, q: View(torch.arange(2)), "has 2 positions, of 10 tokens"),
    "falling": (
        lambda row, q: View(torch.cat((torch.tensor([1, 0]), torch.arange(5, row.length)))),
        "do not ascend",
    ),
    "alone": (
        lambda row, q: View(torch.arange(row.length), torch.arange(row.length)),
        "places, query_places and extent together",
    ),
    "outside": (
        lambda row, q: View(
            torch.arange(row.length), torch.arange(row.length), query_steps(q), row.length - 1
        ),
        "has places outside 0..8",
    ),
    "list": (lambda row, q: View([1, 2, 3]), "has positions of the type list, not a tensor"),
    "budget": (lambda row, q: View(torch.arange(row.length)), "budget is"),
    "tensor": (
        lambda row, q: torch.arange(row.length),
        "must give a View, a Selection or a BandedView",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_view_that_is_none_is_refused(name):
    view, message = WRONG[name]
    method = broken(lambda self, row, q: view(row, q))
    with pytest.raises(ConfigError, match=rf"broken: .*{message}"), attach(tiny_model(), method):
        pass  # its 16-token prompt is beyond the 8 that are attended as a whole


def test_no_view_where_one_was_due_is_an_error():
    with attach(tiny_model(), broken(lambda self, row, q: None)) as session:
        session.prefill(random_prompt(33))
        with pytest.raises(SelectionError, match="had to select"):
            session.check_selected()
        session.reset_stats()
