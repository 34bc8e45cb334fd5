"""RMSNorms that run as one kernel while a method is attached: which, with which bits."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch
from accelerate import dispatch_model
from families import tiny_family
from tiny_models import random_prompt, tiny_model
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from reattention_eval import FullAttention, ReAttention, StreamingLLM, attach
from reattention_eval.attention import fused_norms
from reattention_eval.attention.fused_norms import fused_norms as found_norms

METHODS = [
    FullAttention(chunk_size=16),
    StreamingLLM(4, 28, chunk_size=16),
    ReAttention(4, 24, 8, 2, 3, chunk_size=16),
]
OWN = LlamaRMSNorm.forward


@pytest.fixture
def served(monkeypatch):
    """As on a GPU where the kernel has PyTorch's bits: norms by their number of calls."""
    calls = []

    def counted(x, weight, eps):
        calls.append(tuple(x.shape))
        return rms_norm(x, weight, eps)

    rms_norm = fused_norms.rms_norm
    monkeypatch.setattr(fused_norms, "_served", lambda module: True)
    monkeypatch.setattr(fused_norms, "rms_norm", counted)
    return calls


def logits_of(model, method, ids):
    with attach(model, method) as session:
        found = [session.prefill(ids[:, :-3])]
        found += [session.decode(ids[:, t : t + 1]) for t in range(ids.shape[1] - 3, ids.shape[1])]
        return torch.cat(found), len(session._hook._parts.norms)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_every_norm_of_every_method(family, method, served):
    model, ids = tiny_model(family, head_dim=32, dtype=torch.bfloat16), random_prompt(50)
    norms = 2 * 2 + 1 + (4 if family == "qwen3" else 0)
    found, exchanged = logits_of(model, method, ids)
    assert exchanged == norms
    assert len(served) % norms == 0
    assert ((1, 1, 4, 32) in served) == (family == "qwen3")  # heads of a decode step
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(fused_norms, "_served", lambda module: False)
        expected, exchanged = logits_of(model, method, ids)
    assert exchanged == 0
    assert torch.equal(found, expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without CUDA")
def test_nothing_changes_on_a_cpu():
    assert found_norms(tiny_model(dtype=torch.bfloat16)) == []


class Scaled(LlamaRMSNorm):
    """A subclass with a forward of its own."""

    def forward(self, hidden_states):
        return 2 * super().forward(hidden_states)


class Twin(LlamaRMSNorm):
    """A subclass that only says something else."""

    def extra_repr(self):
        return "twin"


class Renamed(nn.Module):
    """As a model's own file has it, with other names for what it computes, and a sentence."""

    def __init__(self, dim, eps):
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Llama's."""
        kind = x.dtype
        x = x.to(torch.float32)
        mean = x.pow(2).mean(-1, keepdim=True)
        x = x * torch.rsqrt(mean + self.variance_epsilon)
        return self.weight * x.to(kind)


class Halved(Renamed):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kind = x.dtype
        x = x.to(torch.float64)
        mean = x.pow(2).mean(-1, keepdim=True)
        x = x * torch.rsqrt(mean + self.variance_epsilon)
        return self.weight * x.to(kind)


class Cubed(Renamed):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kind = x.dtype
        x = x.to(torch.float32)
        mean = x.pow(3).mean(-1, keepdim=True)
        x = x * torch.rsqrt(mean + self.variance_epsilon)
        return self.weight * x.to(kind)


class Decorated(Renamed):
    forward = torch.no_grad()(Renamed.forward)


@pytest.mark.parametrize("kind", [LlamaRMSNorm, MistralRMSNorm, Qwen3RMSNorm, Twin, Renamed])
def test_norms_of_the_same_code(kind, served):
    (forward,) = found_norms(kind(48, 1e-3))
    forward.module.weight.data = torch.randn(48).bfloat16()
    x = torch.randn(3, 7, 48).bfloat16()
    with torch.no_grad():
        assert torch.equal(forward.function(x), forward.module(x))
    assert served == [(3, 7, 48)]


@pytest.mark.parametrize(
    "norm",
    [
        GemmaRMSNorm(48),  # 1 + weight
        Olmo2RMSNorm(48),  # times the weight in float32
        GptOssRMSNorm(48),
        nn.RMSNorm(48, 1e-5),
        nn.LayerNorm(48),
        Scaled(48),
        Halved(48, 1e-5),
        Cubed(48, 1e-5),
        Decorated(48, 1e-5),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_other_norms_keep_their_forward(norm, served):
    assert found_norms(norm) == []


def test_a_forward_that_is_wrapped_is_left_alone(served):
    norm = LlamaRMSNorm(48)
    norm.forward = functools.partial(OWN, norm)
    assert found_norms(norm) == []
    norm.forward = OWN.__get__(norm)  # the class's own, bound
    assert [forward.name for forward in found_norms(norm)] == ["forward"]


def test_torch_of_another_name_is_another_function(served, monkeypatch):
    norm = LlamaRMSNorm(48)
    monkeypatch.setitem(OWN.__globals__, "torch", copy)
    assert found_norms(norm) == []


def test_calls_the_kernel_does_not_serve(served):
    (forward,) = found_norms(LlamaRMSNorm(48).bfloat16())
    module, x = forward.module, torch.randn(5, 48)
    with torch.no_grad():
        assert torch.equal(forward.function(x), module(x))  # float32 times bfloat16
    half = x.bfloat16().requires_grad_()
    forward.function(half).sum().backward()
    assert half.grad is not None
    assert served == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda norm: norm.to(torch.float64), "dtype"),
        (lambda norm: setattr(norm, "weight", nn.Parameter(norm.weight[None])), "shape"),
        (lambda norm: setattr(norm, "variance_epsilon", None), "eps"),
        (lambda norm: norm.to("meta"), "offloaded"),
        (lambda norm: norm.bfloat16(), "a CPU"),
    ],
)
def test_modules_no_kernel_serves(change, why):
    norm = LlamaRMSNorm(48)
    change(norm)
    assert not fused_norms._served(norm), why


@pytest.mark.parametrize("wrong", ["sum", "rounding", "weight", "eps"])
def test_the_probe_sees_a_kernel_with_other_bits(wrong, monkeypatch):
    from reattention_kernels.norm import rms_norm_naive

    def other(x, weight, eps):
        if wrong == "sum":  # one last place
            mean = torch.nextafter(x.float().pow(2).mean(-1, keepdim=True), torch.tensor(9e9))
            return weight * (x.float() * torch.rsqrt(mean + eps)).to(x.dtype)
        if wrong == "rounding":
            return (weight.float() * rms_norm_naive(x.float(), torch.ones(64), eps)).to(x.dtype)
        if wrong == "weight":
            return rms_norm_naive(x, weight + 1, eps)
        return rms_norm_naive(x, weight, 1e-6)

    given = LlamaRMSNorm, 64, 1e-5, torch.bfloat16, torch.device("cpu")
    assert fused_norms._proven.__wrapped__(*given)
    monkeypatch.setattr(fused_norms, "rms_norm", other)
    assert not fused_norms._proven.__wrapped__(*given)


def test_with_device_hooks(served):
    model, ids = tiny_model(dtype=torch.bfloat16), random_prompt(40)
    expected, _ = logits_of(model, METHODS[2], ids)
    places = {"model.embed_tokens": "cpu", "model.layers": "cpu", "model.norm": "cpu"}
    places |= {"model.rotary_emb": "cpu", "lm_head": "cpu"}
    dispatch_model(model, places, force_hooks=True)
    before = [dict(vars(module)) for module in model.modules()]
    calls = len(served)
    found, exchanged = logits_of(model, METHODS[2], ids)
    assert exchanged == 5
    assert len(served) == 2 * calls
    assert torch.equal(found, expected)
    assert [dict(vars(module)) for module in model.modules()] == before


def test_nothing_stays_behind(served):
    model, ids = tiny_model(dtype=torch.bfloat16), random_prompt(30)
    with torch.inference_mode():
        expected = model(input_ids=ids).logits
    with attach(model, "full") as session:
        session.prefill(ids)
        served.clear()
    for again in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not any("forward" in vars(module) for module in again.modules())
        with torch.inference_mode():
            assert torch.equal(again(input_ids=ids).logits, expected)
    assert served == []


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_on_a_gpu_the_same_logits(family, method, dtype, monkeypatch):
    model = tiny_model(family, head_dim=64, dtype=dtype).cuda()
    ids = random_prompt(120).cuda()  # times four heads, below 512
    found, exchanged = logits_of(model, method, ids)
    assert exchanged == (9 if family == "qwen3" else 5)
    monkeypatch.setattr(fused_norms, "_served", lambda module: False)
    expected, exchanged = logits_of(model, method, ids)
    assert exchanged == 0
    assert torch.equal(found, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["phi3", "olmoe", "granite", "gemma3_text"])
def test_on_a_gpu_other_families(family, monkeypatch):
    model, ids = tiny_family(family, torch.bfloat16).cuda(), random_prompt(90).cuda()
    method = FullAttention(chunk_size=512)
    found, exchanged = logits_of(model, method, ids)
    assert (exchanged == 0) == (family == "gemma3_text")
    monkeypatch.setattr(fused_norms, "_served", lambda module: False)
    assert torch.equal(found, logits_of(model, method, ids)[0])
