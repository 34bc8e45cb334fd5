"""How the tests of `ask` call it."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from click.testing import Result
from tiny_models import tiny_model
from tiny_tokenizers import tiny_tokenizer
from typer.testing import CliRunner

from reattention_eval import ReAttention, attach
from reattention_eval.cli import app
from reattention_eval.document_prompt import DocumentPrompt

TEXT = " ".join(f"The dog number {i} sleeps in house {i * 7 % 91}." for i in range(30))
METHOD = "reattention:global_size=4,local_size=32,span_size=4,top_k=2,max_spans=8,chunk_size=16"
SETTINGS = dict(global_size=4, local_size=32, span_size=4, top_k=2, max_spans=8, chunk_size=16)
QUESTIONS = ["Where does the dog sleep?", "What is the number?"]
COMMAND = [sys.executable, "-c", "from reattention_eval.cli import app; app()", "ask"]


def words(model: Path, book: Path, *more: object) -> list[str]:
    fixed = ["--model", model, "--method", METHOD, "--dtype", "float32", "--device", "cpu"]
    return [str(word) for word in (book, *more, *fixed, "--max-new-tokens", 8)]


def run(*given: str, stdin: str = "") -> Result:
    return CliRunner().invoke(app, ["ask", *given], input=stdin)


def expected(text: str = TEXT, read: int | None = None) -> list[str]:
    """The answers of a session that reads every prompt from its beginning."""
    tokenizer = tiny_tokenizer()
    document, found = DocumentPrompt(tokenizer, text), []
    made = tiny_model(window=4096, vocab_size=500, dtype=torch.float32)
    made.generation_config.eos_token_id = None
    with attach(made, ReAttention(**SETTINGS)) as session:
        for question in QUESTIONS:
            ids = torch.tensor([document.ask(question, read)])
            stop = [tokenizer.eos_token_id]
            tokens = session.generate(ids, 8, reuse_prefix=False, stop_token_ids=stop)
            found.append(tokenizer.decode(tokens[0], skip_special_tokens=True))
    return found
