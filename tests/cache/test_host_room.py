"""Host memory that the cache takes: when, how much, and what is said where there is too little."""

from __future__ import annotations

import pytest
import torch
from repeats import repeat_without_gpu
from small_tiers import make_tiers_small
from tiny_models import random_prompt, tiny_model

from reattention_eval import ReAttention, attach, machine_memory
from reattention_eval.cache import host_memory, rounded_capacity, tiers
from reattention_eval.errors import ConfigError, HostMemoryError
from reattention_eval.methods import build_method


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    make_tiers_small(monkeypatch)


METHOD = ReAttention(global_size=2, local_size=12, span_size=4, max_spans=4, top_k=3, chunk_size=6)


def test_an_exception_gives_all_back():
    kept = {}

    def fail():
        with attach(tiny_model(), METHOD, cache="values_on_host") as session:
            session.prefill(random_prompt(90))
            kept["session"] = session
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    hook = kept["session"]._hook
    assert not any(layer.nbytes or layer.host_bytes for layer in hook.layers)
    assert not hook.tier.memory.free_bytes


def test_too_little_host_memory_is_said_before_anything_is_read(monkeypatch):
    with attach(tiny_model(), METHOD, cache="values_on_host") as session:
        before = session.prefill(random_prompt(60))
        monkeypatch.setattr(host_memory, "main_memory", lambda: host_memory.SPARE_BYTES + 5000)
        with pytest.raises(ConfigError, match=r"GiB of host memory .*and .* GiB are left"):
            session.prefill(random_prompt(5000))
        assert torch.equal(session.prefill(random_prompt(60)), before)  # needs no more


@pytest.mark.parametrize("cache", ["values_on_host", "host"])
def test_host_memory_is_taken_when_tokens_come(cache):
    """Not before a prompt is read, which would wait for it."""
    with attach(tiny_model(), METHOD, cache=cache) as session:
        session.prefill(random_prompt(60))
        needed = session.stats.cache_host_bytes
        session.prefill(random_prompt(60), max_new_tokens=5000)
        assert session.stats.cache_host_bytes == needed > 0
        session.extend(random_prompt(240, seed=1))
        assert session.stats.cache_host_bytes > 3 * needed


def test_all_of_it_is_taken_before_steps_are_repeated(monkeypatch):
    """A block that cannot be pinned is known when they are captured, and no step waits for one."""
    with monkeypatch.context() as patch:
        repeated = repeat_without_gpu(patch)
        with attach(tiny_model(), METHOD, cache="values_on_host") as session:
            session.prefill(random_prompt(60), max_new_tokens=500)
            before = session.stats.cache_host_bytes
            session.generate(max_new_tokens=12)
            assert repeated
            after = session.stats.cache_host_bytes
            assert after > 5 * before
            session.generate(max_new_tokens=40)
            assert session.stats.cache_host_bytes == after


@pytest.mark.parametrize("cache", ["values_on_host", "host"])
def test_memory_that_others_took_meanwhile_ends_the_prompt_alone(cache, monkeypatch):
    model, left = tiny_model(), [1 << 40]
    monkeypatch.setattr(host_memory, "main_memory", lambda: left[0])

    def others(read):
        left[0] = host_memory.SPARE_BYTES
        return False

    with attach(model, METHOD, cache=cache) as session:
        before = session.prefill(random_prompt(60))
        with pytest.raises(HostMemoryError, match=r"needs \d+ MiB of .* next, and .* left here"):
            session.prefill(random_prompt(300), progress=others)
        left[0] = 1 << 40
        assert torch.equal(session.prefill(random_prompt(60)), before)
        found = session.prefill(random_prompt(300))
    with attach(model, METHOD) as session:
        assert torch.equal(session.prefill(random_prompt(300)), found)


@pytest.mark.parametrize("version", [1, 2])
def test_a_job_s_limit_refuses_a_prompt_before_it_starts(version, monkeypatch, tmp_path):
    """The machine has more; its control group, a container's or a SLURM job's, has not."""
    folder = tmp_path if version == 2 else tmp_path / "memory"
    folder.mkdir(exist_ok=True)
    names = ("memory.max", "memory.current")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    monkeypatch.setattr(machine_memory, "_CGROUP_FILES", tmp_path)
    for name, held in zip(names, (host_memory.SPARE_BYTES + (1 << 20), 4096), strict=True):
        (folder / name).write_text(f"{held}\n")
    with attach(tiny_model(), METHOD, cache="values_on_host") as session:
        session.prefill(random_prompt(60))
        with pytest.raises(HostMemoryError, match="give the job more memory"):
            session.prefill(random_prompt(5000))  # 2.5 MiB


def test_memory_that_cannot_be_pinned_is_pageable_and_said_once(monkeypatch):
    """On a machine without a GPU: asked for as its own."""
    real = torch.empty

    def refuse(*shape, pin_memory=False, **options):
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory")
        return real(*shape, **options)

    monkeypatch.setattr(torch, "empty", refuse)
    monkeypatch.setattr(host_memory, "_rate", lambda data, device: 5.0)
    memory, device = host_memory.HostMemory(), torch.device("cuda")
    with pytest.warns(RuntimeWarning, match=r"cannot be pinned .* at 5.0 GB/s here") as said:
        blocks = [memory.take((16, 2, 8), torch.float32, device) for _ in range(3)]
    assert len(said) == 1
    assert not any(block.is_pinned() for block in blocks)


def test_what_a_plan_says_of_a_tier_is_what_is_held():
    model = tiny_model()
    shape = tiers.CacheShape(2, 2, 16, 8)
    cases = ("device", 152), ("values_on_host", 152), ("values_on_host", 20), ("host", 152)
    for cache, tokens in cases:
        with attach(model, METHOD, cache=cache) as session:
            session.prefill(random_prompt(tokens))
            held = session.stats
        plan = tiers.tier_bytes(shape, tokens, cache, METHOD.budget, 1, 2, 16)
        assert plan.host == held.cache_host_bytes
        assert plan.device == held.cache_bytes


@pytest.mark.parametrize(
    ("cache", "method", "words"),
    [
        ("disk", METHOD, "unknown cache 'disk'; there are: device, values_on_host, host"),
        ("values_on_host", build_method("dynamic_ntk"), "in the model's own cache"),
    ],
)
def test_what_cannot_be_is_said(cache, method, words):
    with pytest.raises(ConfigError, match=words), attach(tiny_model(), method, cache=cache):
        pass


@pytest.mark.parametrize("cache", ["values_on_host", "host"])
def test_a_cpu_has_one_memory_for_both_places(cache, monkeypatch):
    """Either part has room there, and both have not: said before anything is read."""
    tokens = 5000
    with attach(tiny_model(), METHOD, cache=cache) as session:
        before = session.prefill(random_prompt(60))
        shape = tiers.CacheShape(2, 2, 16, 8)
        parts = tiers.tier_bytes(shape, rounded_capacity(tokens), cache, METHOD.budget, 1, 2, 16)
        left = host_memory.SPARE_BYTES + max(parts) + min(parts) // 2
        for module in (host_memory, machine_memory):
            monkeypatch.setattr(module, "main_memory", lambda: left)
        asked = f'1 x 5,000 tokens .* GiB of host memory with cache="{cache}", and .* enough for'
        with pytest.raises(HostMemoryError, match=asked):
            session.prefill(random_prompt(tokens), progress=lambda read: pytest.fail("it began"))
        assert torch.equal(session.prefill(random_prompt(60)), before)
        left += min(parts) // 2 + (1 << 20)
        session.prefill(random_prompt(60), max_new_tokens=tokens - 60)
