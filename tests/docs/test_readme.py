"""README.md: every command and snippet runs as it stands, or docs/commands.md says why not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from code_blocks import ROOT, blocks, languages
from tiny_tokenizers import tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

COMMANDS = [
    line.strip() for block in blocks("README.md", "bash") for line in block.splitlines() if line
]
LISTED = re.findall(
    r"^\| `([^`]+)` \|", (ROOT / "docs/commands.md").read_text(encoding="utf-8"), re.MULTILINE
)
TOKENS = 17_000  # beyond the snippet's scope of 32 + 8,192 + 256 x 32


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader stands: the checkout, the model under its name, a book, a finished run."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("configs", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=len(tokenizer), max_position_embeddings=131_072,
    )  # fmt: skip
    checkpoint = folder / "meta-llama" / "Llama-3.1-8B"
    LlamaForCausalLM(config).save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    (folder / "book.txt").write_text("dog " * TOKENS)
    run = folder / "outputs" / "longbench" / "20260101_000000"
    for part in ("configs", "predictions/m", "results/m"):
        (run / part).mkdir(parents=True)
    (run / "predictions" / "m" / "d.json").write_text('{"0": {}}')
    (run / "results" / "m" / "d.json").write_text(json.dumps({"accuracy": 75.0, "n": 4}))
    return folder


def run(desk: Path, *words: str, shell: bool = False) -> str:
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]),
        "REATTENTION_CACHE": str(desk / "cache"),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
    }
    done = subprocess.run(
        words[0] if shell else words,
        shell=shell, cwd=desk, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_there_are_no_other_blocks() -> None:
    assert languages("README.md") == {"bash", "python"}


def test_what_is_listed_stands_in_the_readme() -> None:
    assert LISTED
    assert set(LISTED) < set(COMMANDS)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in LISTED])
def test_command(desk: Path, command: str) -> None:
    assert run(desk, command, shell=True)


@pytest.mark.parametrize("snippet", blocks("README.md", "python"))
def test_snippet(desk: Path, snippet: str) -> None:
    said = run(desk, sys.executable, "-c", snippet)
    selected = re.search(r"layer_steps_selected=(\d+)", said)
    assert selected
    assert int(selected[1]) > 0
