"""The memory plan against counted parameters, a real cache, and peaks measured on an H100."""

from __future__ import annotations

import csv
import json
import resource
from pathlib import Path

import pytest
import torch
from tiny_models import random_prompt, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from reattention_eval import ReAttention, attach, machine_memory
from reattention_eval.checkpoints.miniature import CONFIGS
from reattention_eval.efficiency import (
    Placement,
    largest_length,
    main_memory,
    plan_memory,
    prompt_forward,
    read_shape,
    shape_of,
    usable,
)
from reattention_eval.engine import forward_size as forward_size_module
from reattention_eval.engine.forward_size import ForwardSize
from reattention_eval.errors import CheckpointError, ConfigError
from reattention_eval.methods import build_method

ROOT = Path(__file__).parents[2]
SWEEP = ROOT / "results" / "needle_sweep"
SMOLLM2 = {
    "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
    "tie_word_embeddings": True, "max_position_embeddings": 8192,
}  # fmt: skip
LLAMA_8B = read_shape("meta-llama/Llama-3.1-8B")
FULL = build_method("full")


def counted(config: dict[str, object]) -> int:
    """transformers builds the model, without memory, and its parameters are counted."""
    kind = str(config["model_type"])
    names = {"internlm2": "llama"}  # the same layers under another name
    known = {k: v for k, v in config.items() if k not in ("model_type", "auto_map", "rope_scaling")}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(names.get(kind, kind), **known)
        )
    model.tie_weights()
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("hub_id", CONFIGS)
def test_parameters_are_those_that_transformers_counts(hub_id: str) -> None:
    assert shape_of(CONFIGS[hub_id]).parameters == counted(CONFIGS[hub_id])


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("qwen3", {"head_dim": 48, "tie_word_embeddings": True}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
    ],
)
def test_biases_and_own_head_sizes_count(kind: str, more: dict[str, object]) -> None:
    config = {**SMOLLM2, "tie_word_embeddings": False, "model_type": kind, **more}
    assert shape_of(config).parameters == counted(config)


def test_the_cache_is_what_a_session_holds() -> None:
    model = tiny_model(heads=4, kv_heads=2, head_dim=16, layers=3, dtype=torch.float32)
    method = ReAttention(local_size=64, max_spans=4, chunk_size=32)
    shape = shape_of(model.config.to_dict())
    with attach(model, method) as session:
        session.prefill(random_prompt(300), max_new_tokens=20)
        held = session.stats.cache_bytes
    plan = plan_memory(shape, method, 320, Placement(dtype="float32", on_gpu=False))
    assert plan.cache == held
    assert plan.weights == sum(p.numel() * 4 for p in model.parameters())


def measured_peaks() -> list[tuple[dict[str, object], int, int]]:
    """(method, length, peak bytes) of the needle sweep on an H100, by its own manifest."""
    manifest = json.loads((SWEEP / "manifest.json").read_text())
    with (SWEEP / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    settings = {}
    for cells in manifest.values():
        for dataset, cell in cells.items():
            method = {"type": cell["method"]["name"], **cell["method"]["settings"]}
            key = (method["type"], str(cell["method"]["budget"] or ""), dataset)
            settings.setdefault(key, method)
    out = {}
    for row in rows:
        key = (row["method"].split()[0], row["budget"], row["dataset"])
        out[row["method"], row["dataset"]] = (
            settings[key], int(row["length"]), int(row["peak_bytes"]),
        )  # fmt: skip
    return list(out.values())


def test_peaks_measured_on_an_h100_are_met_within_5_percent() -> None:
    peaks = measured_peaks()
    assert len(peaks) >= 24
    shape = shape_of(SMOLLM2)
    for settings, length, peak in peaks:
        plan = plan_memory(shape, build_method(settings), length + 16, Placement())
        assert abs(plan.total / peak - 1) < 0.05, (settings, length)


def test_heads_or_layers_spread_over_gpus_share_the_memory() -> None:
    method = ReAttention()
    one = plan_memory(LLAMA_8B, method, 131072, Placement())
    heads = plan_memory(LLAMA_8B, method, 131072, Placement(tensor_parallel=4))
    assert heads.cache * 4 == one.cache
    assert heads.weights * 4 == pytest.approx(one.weights, rel=1e-6)
    layers = plan_memory(LLAMA_8B, method, 131072, Placement(gpus=4))
    assert layers.cache * 4 == one.cache
    assert one.weights / 4 < layers.weights < one.weights / 4 * 1.15  # the head or the embedding
    with pytest.raises(ConfigError, match=r"does not divide the model's 8 KV heads; choose 1, 2"):
        plan_memory(LLAMA_8B, method, 1000, Placement(tensor_parallel=3))


@pytest.mark.parametrize("name", ["full", "streaming_llm", "reattention"])
@pytest.mark.parametrize("on_gpu", [True, False])
def test_the_longest_length_is_the_last_that_fits(name: str, on_gpu: bool) -> None:
    method, memory = build_method(name), usable(80 * 2**30)
    placement = Placement(on_gpu=on_gpu)
    longest = largest_length(LLAMA_8B, method, placement, memory)
    assert longest > 131072
    assert plan_memory(LLAMA_8B, method, longest, placement).total <= memory
    assert plan_memory(LLAMA_8B, method, longest + 1, placement).total > memory
    assert largest_length(LLAMA_8B, method, placement, 2**30) == 0


def test_shapes_come_from_folders_and_names_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    chat = ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B")
    others = (
        ("internlm/internlm2_5-7b-chat-1m", "internlm/internlm2_5-7b"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistralai/Mistral-7B-v0.3"),
    )
    for form, base in (chat, *others):
        assert read_shape(form) == read_shape(base)
    for name in ("LLaMA3.1-8B", "llama3_1_8b", "LLaMA3.1-8B-Instruct"):  # as `bench` calls it
        assert read_shape(name) == LLAMA_8B
    (tmp_path / "Llama-3.1-8B").mkdir()
    file = tmp_path / "Llama-3.1-8B" / "config.json"
    file.write_text(json.dumps(SMOLLM2))
    assert read_shape(str(file.parent)) == shape_of(SMOLLM2)
    monkeypatch.setenv("REATTENTION_MODELS", str(tmp_path))
    assert read_shape("meta-llama/Llama-3.1-8B") == shape_of(SMOLLM2)
    for wrong, said in ((str(tmp_path / "nowhere"), "is no folder"), (str(tmp_path), "cannot be")):
        with pytest.raises(CheckpointError, match=said):
            read_shape(wrong)
    with pytest.raises(ConfigError, match="64 experts is not planned"):
        shape_of({**SMOLLM2, "num_experts": 64})
    with pytest.raises(ConfigError, match="says nothing of 'hidden_size'"):
        shape_of({"model_type": "mamba"})


def test_the_memory_of_this_machine_is_a_plausible_number() -> None:
    import os

    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    left = main_memory()
    assert left is not None and 2**26 < left <= whole


@pytest.mark.parametrize("rows", [1, 3])
def test_the_forward_is_the_one_that_a_session_takes(rows: int, monkeypatch) -> None:
    """With as much free as the plan leaves beside weights and cache."""
    model = tiny_model(heads=2, kv_heads=1, head_dim=16, layers=3, dtype=torch.float32)
    method = ReAttention(local_size=64, max_spans=4, chunk_size=32)
    shape, place = shape_of(model.config.to_dict()), Placement(dtype="float32")
    plan = plan_memory(shape, method, 5000, place, rows)
    found = []
    for free in (0, 1_000_000, 3_000_000, 10**9):
        memory = plan.weights + plan.cache + free
        planned = prompt_forward(shape, method, 5000, place, memory, rows)
        size = ForwardSize(model, method.chunk_size)
        size._devices = {torch.device("cuda")}
        monkeypatch.setattr(forward_size_module, "free_bytes", lambda device, free=free: free)
        assert size.choose(rows) == planned
        found.append(planned)
    assert found[0] == 32 < found[1] < found[3]


def test_a_machine_whose_memory_grows_has_what_is_stated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 GiB are there, 3 of them in use, and it will have 128."""
    monkeypatch.setattr(machine_memory, "_CGROUP_FILES", tmp_path)
    monkeypatch.setattr(machine_memory, "_MEMINFO", tmp_path / "meminfo")
    kib = 1 << 20  # of a GiB
    (tmp_path / "meminfo").write_text(
        f"MemTotal: {30 * kib} kB\nMemFree: 7 kB\nMemAvailable: {27 * kib} kB\n"
    )
    for stated, left in (("", 27), ("128", 125), ("31.5", 28.5), ("16", 27)):
        monkeypatch.setenv("REATTENTION_HOST_MEMORY", stated)
        assert main_memory() == left * machine_memory.GIB
    (tmp_path / "memory.max").write_text(str(50 * machine_memory.GIB))
    (tmp_path / "memory.current").write_text(str(10 * machine_memory.GIB))
    monkeypatch.setenv("REATTENTION_HOST_MEMORY", "128")
    assert main_memory() == 40 * machine_memory.GIB  # a limit is one all the same
    for wrong in ("much", "-1", "nan", "inf"):
        monkeypatch.setenv("REATTENTION_HOST_MEMORY", wrong)
        with pytest.raises(ConfigError, match=f"REATTENTION_HOST_MEMORY is '{wrong}'; give the"):
            main_memory()


@pytest.mark.parametrize("version", [1, 2])
def test_limits_of_every_control_group_around_the_process_count(tmp_path, monkeypatch, version):
    """A SLURM job's limit lies above the step that the process is in."""
    monkeypatch.setattr(machine_memory, "_CGROUP_FILES", tmp_path)
    monkeypatch.setattr(machine_memory, "_CGROUPS", tmp_path / "cgroup")
    line = "0::/slurm/job_7/step_0" if version == 2 else "4:cpu,memory:/slurm/job_7/step_0"
    (tmp_path / "cgroup").write_text(f"1:name=systemd:/\n{line}\n")
    job = tmp_path / ("" if version == 2 else "memory") / "slurm" / "job_7"
    (job / "step_0").mkdir(parents=True)
    names = (
        ("memory.max", "memory.current", "inactive_file")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    )
    for folder, limit in (
        (job, "5000000"),
        (job / "step_0", "max" if version == 2 else str(2**63)),
    ):
        (folder / names[0]).write_text(limit)
        (folder / names[1]).write_text("4000000")
    assert main_memory() == 1_000_000
    (job / "memory.stat").write_text(f"anon 7\n{names[2]} 250000\n")  # pages that can be given up
    assert main_memory() == 1_250_000
    (job / names[1]).write_text("6000000")
    (job / "memory.stat").unlink()
    assert main_memory() == 0


def test_a_limit_of_the_address_space_counts(monkeypatch, tmp_path) -> None:
    """`ulimit -v`, of which the process has taken 300 pages."""
    limits = {resource.RLIMIT_AS: (1000 * resource.getpagesize(), -1)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    monkeypatch.setattr(machine_memory, "_STATM", tmp_path / "statm")
    (tmp_path / "statm").write_text("300 100 20 1 0 80 0\n")
    assert main_memory() == 700 * resource.getpagesize()
    limits[resource.RLIMIT_AS] = (200 * resource.getpagesize(), -1)
    assert main_memory() == 0
    limits[resource.RLIMIT_AS] = (resource.RLIM_INFINITY, -1)
    assert main_memory() > 2**26


def test_a_cpu_keeps_a_little_for_everything_else(monkeypatch) -> None:
    """A process that takes the last of it is killed, and a whole run with it."""
    cpu, spare = torch.device("cpu"), machine_memory.SPARE_BYTES
    for left, free in ((spare + 5, 5), (7, 0), (None, None)):
        monkeypatch.setattr(machine_memory, "main_memory", lambda left=left: left)
        assert machine_memory.free_bytes(cpu) == free
