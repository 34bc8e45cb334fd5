"""A prompt that cannot fit is refused before its model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reattention_eval.cache import device_room, tiers
from reattention_eval.efficiency import (
    Placement,
    largest_length,
    plan_memory,
    read_shape,
    usable,
)
from reattention_eval.errors import ConfigError, DeviceMemoryError
from reattention_eval.harness import PromptRunner, memory_check
from reattention_eval.harness.memory_check import check_memory, longest_prompt, out_of_host_memory
from reattention_eval.harness.samples import Sample
from reattention_eval.harness.tasks import LongContextInferTask
from reattention_eval.methods import build_method

GIB = 2**30
MODEL = {
    "path": "meta-llama/Llama-3.1-8B", "abbr": "LLaMA3.1-8B", "dtype": "bfloat16",
    "method": {"type": "reattention"},
}  # fmt: skip


def dataset(length: int | None, **ask: Any) -> dict[str, Any]:
    facts = {"length": length} if length else {}
    return {"infer_cfg": {"inferencer": {"max_out_len": 16, "dataset_facts": facts, **ask}}}


def gpus(*free: float) -> Callable[[], list[tuple[int, int]]]:
    return lambda: [(int(gib * GIB), 80 * GIB) for gib in free]


def test_the_longest_prompt_is_read_from_the_configurations() -> None:
    assert longest_prompt(MODEL, [dataset(4096), dataset(None), dataset(65536)]) == 65552
    assert longest_prompt({**MODEL, "max_seq_len": 8192}, [dataset(65536)]) == 8192
    assert longest_prompt(MODEL, [dataset(65536, max_prompt_tokens=1000)]) == 1016
    assert longest_prompt(MODEL, [dataset(None)]) is None


def test_too_long_a_prompt_is_refused_with_the_length_that_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory_check, "accelerator_memory", gpus(40))
    check_memory(MODEL, [dataset(131072)])
    with pytest.raises(ConfigError) as caught:
        check_memory(MODEL, [dataset(131072), dataset(1048576)])
    shape, method = read_shape(MODEL["path"]), build_method("reattention")  # type: ignore[arg-type]
    longest = largest_length(shape, method, Placement(), 40 * GIB)
    needed = plan_memory(shape, method, 1048592, Placement()).total / GIB
    assert str(caught.value).startswith(
        f"LLaMA3.1-8B: a prompt of 1,048,592 tokens needs {needed:.1f} GiB on each GPU"
    )
    assert f"the longest that fits is {longest:,} tokens" in str(caught.value)
    monkeypatch.setattr(memory_check, "accelerator_memory", gpus(10))
    with pytest.raises(ConfigError, match="not even the weights fit: give more or larger GPUs"):
        check_memory(MODEL, [dataset(4096)])


def test_spread_models_may_read_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "accelerator_memory", gpus(79, 79))
    asked = [dataset(700_000)]
    with pytest.raises(ConfigError):
        check_memory(MODEL, asked)
    check_memory({**MODEL, "device_map": "auto"}, asked)
    check_memory({**MODEL, "tensor_parallel": 2}, asked)
    # the fullest GPU decides
    monkeypatch.setattr(memory_check, "accelerator_memory", gpus(79, 20))
    with pytest.raises(ConfigError):
        check_memory({**MODEL, "device_map": "auto"}, asked)


def test_a_cache_in_host_memory_may_hold_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "accelerator_memory", gpus(40))
    check_memory({**MODEL, "cache": "auto"}, [dataset(1048576)])
    with pytest.raises(ConfigError, match="1,048,592 tokens needs 8"):
        check_memory({**MODEL, "cache": "values_on_host"}, [dataset(1048576)])
    full = {**MODEL, "method": {"type": "full"}, "cache": "auto"}  # needs all values at every step
    with pytest.raises(ConfigError, match="cache 128"):
        check_memory(full, [dataset(1048576)])


def test_another_tier_is_proposed_where_it_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a million tokens a layer has 2 GiB of keys and as many values: 64 GiB of each."""
    asked, two = [dataset(1 << 20)], {"tensor_parallel": 2}

    def said(free: float, host: int | None, **more: Any) -> str:
        main = None if host is None else host * GIB
        monkeypatch.setattr(memory_check, "accelerator_memory", gpus(free, free))
        monkeypatch.setattr(memory_check, "main_memory", lambda: main)
        with pytest.raises(ConfigError) as caught:
            check_memory({**MODEL, **more}, asked)
        return str(caught.value)

    auto = 'put cache="auto" into the model\'s entry, or give more GPUs'
    assert auto in said(40, None)  # as "host" it fits
    assert auto in said(100, 70)  # as "values_on_host"
    # the keys of some layers alone have to be in host memory, and those of all have no room there
    assert auto in said(60, 110)
    assert auto in said(60, 110, cache="values_on_host")
    for nothing in (said(40, 100), said(60, 60), said(40, None, method={"type": "full"})):
        assert "cache=" not in nothing
    assert "cache=" not in said(1, None, cache="host")  # the last there is
    # processes that share a model have to choose alike, so that it is a tier of its own
    assert 'put cache="values_on_host" into' in said(60, 70, **two)
    assert 'put cache="host" into' in said(22, None, **two)


def test_what_cannot_be_planned_is_left_to_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "accelerator_memory", gpus(1))
    check_memory({**MODEL, "path": "/nowhere"}, [dataset(10**9)])
    check_memory({**MODEL, "method": {"type": "unheard_of"}}, [dataset(10**9)])
    check_memory(MODEL, [dataset(None)])
    monkeypatch.setenv("REATTENTION_MEMORY_CHECK", "off")
    check_memory(MODEL, [dataset(10**9)])


def test_a_gpu_that_is_full_after_all_is_told_in_one_sentence(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = PromptRunner(str(checkpoint), dtype="float32")

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(runner.session, "prefill", full)
    monkeypatch.setattr(memory_check, "accelerator_memory", gpus(1))
    with pytest.raises(ConfigError) as caught:
        runner.run([Sample("the dog and the fox")], 4)
    shape, room = read_shape(str(checkpoint)), usable(80 * GIB)
    longest = largest_length(shape, build_method("full"), Placement(dtype="float32"), room)
    assert "no GPU memory left at a prompt of" in str(caught.value)
    says = (
        f"the longest that fits while nothing else is on the GPU is {longest:,} tokens with cache="
    )
    assert f'{says}"device"' in str(caught.value)
    monkeypatch.setattr(memory_check, "accelerator_memory", list)
    with pytest.raises(ConfigError, match="ask for less, or give more GPUs"):
        runner.run([Sample("the dog and the fox")], 4)
    runner.close()


def test_on_a_cpu_no_tier_is_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "accelerator_memory", list)
    monkeypatch.setattr(memory_check, "main_memory", lambda: 20 * GIB)
    for cache in ("device", "host"):
        with pytest.raises(ConfigError, match="on this machine") as caught:
            check_memory({**MODEL, "cache": cache}, [dataset(1 << 20)])
        assert "cache=" not in str(caught.value)


def test_on_a_cpu_both_places_are_of_one_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 GiB of keys and values beside 15 of weights, and what stays on a device is there twice."""
    monkeypatch.setattr(memory_check, "accelerator_memory", list)
    monkeypatch.setattr(memory_check, "main_memory", lambda: 32 * GIB)
    asked = [dataset(131072 - 16)]
    for cache in ("device", "auto"):
        check_memory({**MODEL, "cache": cache}, asked)
    shape, method = read_shape(str(MODEL["path"])), build_method("reattention")
    cpu = Placement(on_gpu=False)
    for cache in ("values_on_host", "host"):
        with pytest.raises(ConfigError, match=r"on this machine .*or give it more") as caught:
            check_memory({**MODEL, "cache": cache}, asked)
        longest = largest_length(shape, method, cpu, 32 * GIB, tier=cache)
        assert f"the longest that fits is {longest:,} tokens" in str(caught.value)
        plan = plan_memory(shape, method, longest, cpu, tier=cache)
        assert plan.total + plan.host <= 32 * GIB < plan.total + plan.host + 2 * GIB


def test_a_cpu_without_room_is_not_called_a_gpu(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = PromptRunner(str(checkpoint), dtype="float32")
    runner.run([Sample("the dog")], 4)
    monkeypatch.setattr(device_room, "free_bytes", lambda device: 1000)
    with pytest.raises(DeviceMemoryError, match=r"on cpu, where .* enough for about"):
        runner.run([Sample("the dog and the fox " * 50)], 4)
    monkeypatch.undo()
    assert runner.run([Sample("the dog")], 4)
    runner.close()


def test_what_a_host_holds_beside_a_gpu_is_told_by_its_tier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a million tokens 64 GiB of values, and as many of keys."""
    monkeypatch.setattr(memory_check, "accelerator_memory", gpus(5))
    monkeypatch.setattr(memory_check, "main_memory", lambda: 10 * GIB)
    shape, method = read_shape(str(MODEL["path"])), build_method("reattention")
    for cache, tier in (("values_on_host", "values_on_host"), ("auto", "host")):
        said = out_of_host_memory({**MODEL, "cache": cache}, 1 << 20, 22 * GIB)
        longest = largest_length(
            shape, method, Placement(), usable(80 * GIB), 1, tier, host=32 * GIB
        )
        assert f'the longest that fits here is {longest:,} tokens with cache="{tier}": ' in said
        assert 200_000 < longest < 600_000
    monkeypatch.setattr(memory_check, "main_memory", lambda: None)
    assert out_of_host_memory(MODEL, 1 << 20, 0).endswith(
        "answer; ask for less, or give it more memory."
    )


def test_on_a_cpu_the_task_asks_before_it_loads(
    task_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_check, "accelerator_memory", list)
    config = task_config(
        [{"prompt": "the dog", "answer": "fox"}], inferencer={"dataset_facts": {"length": 10**10}}
    )
    loaded: list[str] = []
    load = lambda path, **_: loaded.append(path)  # noqa: E731
    monkeypatch.setitem(PromptRunner.__init__.__kwdefaults__, "loader", load)
    with pytest.raises(ConfigError, match=r"tiny: a prompt of 10,000,000,004 tokens needs .* GiB "):
        LongContextInferTask(config).run()
    assert not loaded
    assert not list(Path(config.work_dir).glob("predictions/*/*"))


def test_what_fits_runs_and_of_the_rest_it_is_said_why_not(
    task_config: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "the dog", "answer": "fox"}]
    config = task_config(rows, abbr="short")
    long = task_config(rows, abbr="long", inferencer={"dataset_facts": {"length": 10**10}})
    config.datasets = [[*long.datasets[0], *config.datasets[0]]]
    with pytest.raises(SystemExit, match=r"no predictions written:\n.*long\.json$"):
        LongContextInferTask(config).run()
    assert (
        "error: tiny on long: tiny: a prompt of 10,000,000,004 tokens needs"
        in capsys.readouterr().err
    )
    (made,) = Path(config.work_dir).glob("predictions/*/*")
    assert made.name == "short.json"


def test_a_cache_in_host_memory_changes_no_prediction(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiers, "LEAST_WINDOW", 4)
    monkeypatch.setattr(tiers, "GROUP_TOKENS", 12)
    method = dict(type="reattention", global_size=4, local_size=64, span_size=8, max_spans=6,
                  chunk_size=32, allow_beyond_window=True)  # fmt: skip
    sample = Sample("fox dog " * 200)
    found = {}
    for cache in ("device", "values_on_host"):
        runner = PromptRunner(str(checkpoint), method, dtype="float32", cache=cache)
        found[cache] = runner.run([sample], 6)[0], runner.fingerprint()
        assert (runner.session.stats.cache_host_bytes > 0) == (cache == "values_on_host")
        runner.close()
    (one, same), (other, name) = found.values()
    assert one.text == other.text
    assert same == name
    with pytest.raises(ConfigError, match="dynamic_ntk keeps keys and values"):
        PromptRunner(str(checkpoint), {"type": "dynamic_ntk"}, cache="host")
    with pytest.raises(ConfigError, match="unknown cache 'disk'"):
        PromptRunner(str(checkpoint), cache="disk")
