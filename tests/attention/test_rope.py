"""Every RoPE family: the model's own inside the window, by their length in views."""

from __future__ import annotations

import copy

import pytest
import torch
from naive_reattention import Naive
from test_eager import plain_logits
from tiny_models import random_prompt, tiny_model

from reattention_eval import FullAttention, ReAttention, StreamingLLM, attach
from reattention_eval.attention import rope as rope_file
from reattention_eval.attention.rope import ViewRope

DIM = 16
LONGROPE = {
    "rope_type": "longrope",
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "short_factor": [1.0 + 0.05 * i for i in range(DIM // 2)],
    "long_factor": [1.0 + 0.5 * i for i in range(DIM // 2)],
}
FAMILIES = {
    "default": None,
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    "longrope": LONGROPE,
}
METHODS = [FullAttention(chunk_size=7), ReAttention(4, 32, 4, 2, 9, chunk_size=7)]  # scope 72
BEYOND = dict(global_size=3, local_size=24, span_size=4, top_k=2, max_spans=3, chunk_size=5)


def rope_model(name, **settings):
    rope = FAMILIES[name]
    if rope is not None:
        settings["rope_scaling"] = dict(rope)
    if name == "longrope":  # where transformers 4 looks for it
        settings["original_max_position_embeddings"] = 32
    return tiny_model("llama", head_dim=DIM, **settings)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_models_own_inside_the_window(name, method):
    """61 tokens: longer than longrope's original window, shorter than the scope and the window."""
    model = rope_model(name)
    prompt = random_prompt(64)
    expected = plain_logits(model, prompt[:, :61])[:, -1]
    with attach(model, method) as session:
        close(session.prefill(prompt[:, :61]), expected)
        for t in range(61, 64):
            logits = session.decode(prompt[:, t : t + 1])
        close(logits, plain(model, prompt))
    assert torch.equal(plain_logits(model, prompt[:, :61])[:, -1], expected)


def plain(model, prompt):
    """The logits of another instance of the model, to which nothing is attached."""
    other = type(model)(copy.deepcopy(model.config)).double().eval()
    other.load_state_dict(model.state_dict())
    return plain_logits(other, prompt)[:, -1]


class NaiveWithRope(Naive):
    """Turned by a fresh copy of the model's own rotary module, told the length of the view."""

    def view(self, query, keys, group):
        view = super().view(query, keys, group)
        self.length = len(view)
        self.turns.clear()
        return view

    def turn(self, position, half):
        if position not in self.turns:
            rotary = type(self.rotary)(self.model.config)
            places = torch.tensor([[position, self.length - 1]])
            cos, sin = rotary(torch.zeros(1, dtype=torch.float64), places)
            self.turns[position] = cos[0, 0, :half], sin[0, 0, :half]
        return self.turns[position]


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "default"])
def test_views_beyond_the_scope(name):
    """Scope 39: longrope's views are longer than its original window of 32, its first are not."""
    model = rope_model(name)
    prompt = random_prompt(52)
    naive = NaiveWithRope(model, **BEYOND)
    naive.rotary = model.model.rotary_emb
    with attach(model, ReAttention(**BEYOND)) as session:
        close(session.prefill(prompt)[0], naive.prefill(prompt[0].tolist()))
        close(session.decode(torch.tensor([[5]]))[0], naive.chunk([5]))
        assert session.stats.layer_steps_selected > 0


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_full_attention_beyond_the_window(name):
    """As transformers: one frequency for the whole prompt, whatever the chunks."""
    model = rope_model(name, window=32)
    prompt = random_prompt(61)
    expected = plain(model, prompt)
    with attach(model, FullAttention(chunk_size=7)) as session:
        close(session.prefill(prompt), expected)
        short = session.generate(prompt[:, :20], 4, reuse_prefix=True)
    with attach(model, FullAttention(chunk_size=7)) as session:  # a longer prompt left no trace
        assert torch.equal(session.generate(prompt[:, :20], 4), short)


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_a_prefix_is_kept_only_where_its_rope_is_the_same(name):
    model = rope_model(name, window=32)
    prompt = random_prompt(70)
    with attach(model, FullAttention(chunk_size=7)) as session:
        session.prefill(prompt[:, :21])
        reused = session.prefill(prompt[:, :61], reuse_prefix=True)
        assert session.stats.reused_tokens == 0  # 21 tokens are inside the window, 61 are not
        again = session.prefill(prompt[:, :70], reuse_prefix=True)
        assert session.stats.reused_tokens == (56 if name == "longrope" else 0)
        assert torch.equal(session.prefill(prompt[:, :61]), reused)
        assert torch.equal(session.prefill(prompt), again)


@pytest.mark.parametrize("name", FAMILIES)
def test_any_order_of_lengths(name):
    model = rope_model(name, window=48)
    rotary = model.model.rotary_emb
    rope = ViewRope(rotary, rotate)
    for n in (3, 200, 40, 300, 10, 49, 48, 200):
        key = torch.randn(2, n, DIM, dtype=torch.float64)
        query = torch.randn(4, min(n, 3), DIM, dtype=torch.float64)
        fresh = type(rotary)(model.config)
        cos, sin = fresh(key, torch.arange(n)[None])
        found = rope.rotate_view(query, key)
        assert torch.equal(found[1], rotate(key[None], key[None], cos, sin)[1][0])
        tail = cos[:, n - query.shape[1] :], sin[:, n - query.shape[1] :]
        assert torch.equal(found[0], rotate(query[None], query[None], *tail)[0][0])


def rotate(q, k, cos, sin):
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    return apply_rotary_pos_emb(q, k, cos, sin)


def test_tables_for_kernels_where_the_length_does_not_matter():
    like = torch.zeros(1, DIM)
    tables = {
        name: ViewRope(rope_model(name, window=48).model.rotary_emb, rotate)
        for name in ("default", "yarn", "dynamic", "longrope")
    }
    for name in ("default", "yarn"):
        assert tables[name].device_tables(20, 400, like) is not None
    assert tables["dynamic"].device_tables(20, 48, like)[0].shape == (48, DIM)
    assert tables["dynamic"].device_tables(20, 49, like) is None
    assert tables["dynamic"].device_tables(60, 60, like) is not None
    assert tables["longrope"].device_tables(20, 33, like) is None  # some of both kinds
    assert tables["longrope"].device_tables(33, 400, like) is not None
    assert all(rope.alike for rope in tables.values())


class _Odd(torch.nn.Module):
    """A rotary module whose tables `change` has changed."""

    def __init__(self, change):
        super().__init__()
        self.original, self.change = rope_model("default").model.rotary_emb, change

    def forward(self, x, places):
        return self.change(*self.original(x, places))


@pytest.mark.parametrize(
    ("change", "alike"),
    [
        (lambda cos, sin: (1.5 * cos, 1.5 * sin), True),
        (
            lambda cos, sin: (cos, torch.cat((sin[..., : DIM // 2], sin[..., : DIM // 2] / 2), -1)),
            False,
        ),
        (lambda cos, sin: (cos.repeat_interleave(2, -1)[..., :DIM], sin), False),
    ],
    ids=["scaled", "halves differ", "pairs side by side"],
)
def test_which_tables_have_halves_alike(change, alike):
    assert ViewRope(_Odd(change), rotate).alike == alike


def test_a_wrapper_that_places_results_is_left_behind():
    """accelerate wraps the forward of a spread model's modules; the view asks for its own place."""
    rotary = rope_model("default").model.rotary_emb
    rotary.forward = lambda *args: pytest.fail("the wrapper was called")
    query = torch.randn(2, 3, DIM)
    ViewRope(rotary, rotate).rotate_view(query, query)


def upcasting(query, key, cos, sin):
    """As some models' own files have it: rounded once, at the end."""
    made = rope_file.rotate_half_split(*(x.float() for x in (query, key, cos, sin)))
    return tuple(x.to(query.dtype) for x in made)


def twice_the_first_half(query, key, cos, sin):
    cos, sin = (x.chunk(2, -1)[0].repeat(1, 1, 2) for x in (cos, sin))
    return rope_file.rotate_half_split(query, key, cos, sin)


def test_which_rotations_one_kernel_computes(monkeypatch):
    """Those that round each step to the dtype, with whole tables, on a GPU."""
    from transformers.models.cohere.modeling_cohere import apply_rotary_pos_emb as in_pairs
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as llamas

    rotary = rope_model("default").model.rotary_emb
    bits = lambda rotate: ViewRope(rotary, rotate)._same_bits  # noqa: E731
    assert bits(llamas)
    assert bits(rope_file.rotate_half_split)
    assert not bits(upcasting)
    assert not bits(in_pairs)
    assert not bits(twice_the_first_half)
    x, cos = torch.zeros(3, 5, DIM, dtype=torch.bfloat16), torch.zeros(1, 9, DIM).bfloat16()
    assert rope_file._usual(cos, x)
    for other in (cos.float(), cos[..., :4], cos[:, :4], cos[0], cos[None], cos.expand(2, -1, -1),
                  cos[..., :1].expand(-1, -1, DIM)):  # fmt: skip
        assert not rope_file._usual(other, x)
    assert not rope_file._usual(cos.float(), x.float())
    assert not ViewRope(rotary, llamas)._in_one_kernel(x, cos)  # on a CPU


@pytest.mark.parametrize("method", [*METHODS, StreamingLLM(4, 28, chunk_size=7)], ids=str)
@pytest.mark.parametrize("name", ["default", "dynamic", "longrope"])
def test_the_kernel_stands_for_the_models_own(name, method, monkeypatch):
    model, ids = rope_model(name, dtype=torch.bfloat16), random_prompt(60)
    calls = []

    def counted(x, cos, sin, slot=None):
        calls.append(x.shape[1])
        return rope_file.rotate_naive(x, cos, sin, slot)

    def logits():
        with attach(model, method) as session:
            found = [session.prefill(ids), session.decode(ids[:, :1]), session.decode(ids[:, 1:2])]
        return torch.cat(found)

    expected = logits()
    usual = lambda self, x, cos: self._same_bits and rope_file._usual(cos, x)  # noqa: E731
    monkeypatch.setattr(ViewRope, "_in_one_kernel", usual)
    monkeypatch.setattr(rope_file, "rotate", counted)
    assert torch.equal(logits(), expected)
    assert len(calls) >= 12


@pytest.mark.gpu
@pytest.mark.parametrize("method", [*METHODS, StreamingLLM(4, 28, chunk_size=7)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_on_a_gpu_the_same_logits(dtype, method, monkeypatch):
    model = tiny_model(head_dim=64, dtype=dtype).cuda()
    ids = random_prompt(400).cuda()

    def logits():
        with attach(model, method) as session:
            found = [session.prefill(ids)]
            found += [session.decode(ids[:, t : t + 1]) for t in range(6)]
        return torch.cat(found)

    found = logits()
    monkeypatch.setattr(ViewRope, "_in_one_kernel", lambda self, x, cos: False)
    assert torch.equal(found, logits())
