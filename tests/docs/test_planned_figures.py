"""What docs say that `plan` says, it says."""

from __future__ import annotations

import re

from code_blocks import ROOT
from test_methods_table import rows

from reattention_eval.efficiency import Placement, read_shape
from reattention_eval.efficiency.forecast import Gpu
from reattention_eval.efficiency.plan import largest_length
from reattention_eval.methods import ReAttention, build_method

MEMORY = Gpu.of("h100-80g").memory
OWNERS = {"Ll": "meta-llama", "Me": "meta-llama", "Mi": "mistralai", "in": "internlm", "Qw": "Qwen"}


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_the_longest_prompt_that_eager_attention_reads() -> None:
    (said,) = re.findall(r"\(([\d,]+) tokens of an 8B model on 80 GB\)", page("methods.md"))
    found = largest_length(read_shape("LLaMA3.1-8B"), build_method("h2o"), Placement(), MEMORY)
    assert said == f"{found:,}"


def test_the_longest_prompts_that_heads_over_gpus_hold() -> None:
    table = rows(page("several_gpus.md"), "| model | KV heads | KiB |")
    assert len(table) == 9
    for name, _, _, *said in table:
        shape = read_shape(f"{OWNERS[name[:2]]}/{name}")
        asked = [(tier, gpus) for tier in ("device", "values_on_host") for gpus in (1, 2, 4, 8)]
        for (tier, gpus), words in zip(asked, said, strict=True):
            if shape.kv_heads % gpus:
                assert not words
                continue
            place = Placement(tensor_parallel=gpus)
            found = largest_length(shape, ReAttention(), place, MEMORY, tier=tier)
            assert words == (f"{found / 2**20:.2f}M" if found else "none"), name
