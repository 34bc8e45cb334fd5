"""The real SmolLM2-135M-Instruct against llama.cpp's token ids and a full-precision perplexity."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from real_model import real_folder, real_tokenizer

from reattention_eval.checkpoints import load_model

# text -> ids, made by llama.cpp (build 11549) from the same GGUF file
GOLDEN = json.loads((Path(__file__).parent / "data" / "smollm2_token_ids.json").read_text())
SONNET = next(row for row in GOLDEN if row["text"].startswith("Shall I compare"))
# mean NLL of the sonnet by transformers' own GGUF loading in float32
SONNET_NLL = 2.5657


@pytest.mark.parametrize("row", GOLDEN, ids=[ascii(row["text"][:20]) for row in GOLDEN])
def test_token_ids_are_those_of_llama_cpp(row):
    tokenizer = real_tokenizer()
    assert tokenizer(row["text"], add_special_tokens=False)["input_ids"] == row["ids"]
    assert tokenizer(row["text"])["input_ids"] == row["ids"]  # no BOS is put in front
    assert tokenizer.decode(row["ids"], skip_special_tokens=False) == row["text"]


def test_the_weights_give_the_perplexity_of_the_unrounded_ones():
    model, tokenizer = load_model(real_folder(), dtype="float32")
    ids = torch.tensor([SONNET["ids"]])
    with torch.inference_mode():
        logits = model(ids).logits[0, :-1]
    nll = torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item()
    assert nll == pytest.approx(SONNET_NLL, abs=0.005)
    # theta 100,000, not transformers 4's silent default of 10,000
    assert model.model.rotary_emb.inv_freq[1].item() == pytest.approx(1e5 ** (-2 / 64))
    assert tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id) == "<|im_end|>"
    assert model.config.max_position_embeddings == tokenizer.model_max_length == 8192


def test_the_folder_loads_plainly_and_without_gguf():
    """As anyone would load it: transformers alone, dtype as stored."""
    code = (
        "import sys; sys.modules['gguf'] = None\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype='auto')\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "print(model.dtype, tokenizer.eos_token)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(real_folder())],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    assert done.stdout.strip() == "torch.bfloat16 <|im_end|>"
