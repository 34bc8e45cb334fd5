"""OpenAI's MRCR (hub dataset openai/mrcr): one of 2, 4 or 8 equal requests of a conversation.

After Vodrahalli et al., 2024, arXiv 2409.12640. A row's `prompt` is a conversation as JSON; its
last turn asks for, say, the second poem about tapirs, behind a random string. A length is the upper
end of a bin: rows whose conversation and answer together have more than half of it, and no more, in
tokens of o200k_base, the dataset's own measure. Nothing is cut. A reference is the raw row, or of
it answer and random_string_to_prepend.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from reattention_eval.benchmarks.base import Asked, Task, load_tokenizer
from reattention_eval.benchmarks.prompt_texts import prompt_texts
from reattention_eval.benchmarks.raw import Ask, Question, RawBenchmark
from reattention_eval.errors import ConfigError, DataError
from reattention_eval.evaluators.rules import TaskRule
from reattention_eval.json_text import parse

BINS = tuple(2**power for power in range(13, 21))  # 8,192 to 1,048,576
_FORMS: dict[str, dict[str, str]] = prompt_texts("mrcr")["prompts"]
_ENCODING = "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken"
# bounds of characters a token, beyond what prose has: only rows within them are counted
_FEWEST, _MOST = 2.5, 8.0


def prefix_ratio(predictions: Sequence[str], references: Sequence[Any]) -> dict[str, float]:
    """`ratio` (0..100): difflib's, of answer and reference behind the random string; 0 for an
    answer that does not begin with it."""
    ratios = []
    for prediction, reference in zip(predictions, references, strict=True):
        mark, right = reference["random_string_to_prepend"], reference["answer"]
        pair = prediction.removeprefix(mark), right.removeprefix(mark)
        hit = prediction.startswith(mark)
        ratios.append(SequenceMatcher(None, *pair).ratio() if hit else 0.0)
    return {"ratio": 100 * sum(ratios) / len(ratios)}


def _count() -> Callable[[str], int]:
    """Tokens of o200k_base, from tiktoken's own cache: nothing is downloaded here."""
    try:
        import tiktoken
    except ModuleNotFoundError as missing:
        raise ConfigError(
            "MRCR's lengths are counted with tiktoken, which is not installed: pip install "
            '"reattention-eval[mrcr]".'
        ) from missing
    file = _encoding_file()
    if not file.is_file():
        raise DataError(
            f"MRCR's lengths are counted in tokens of o200k_base (looked for {file}). Fetch "
            "it where there is a network, with TIKTOKEN_CACHE_DIR set to a folder that stays: "
            "python -c \"import tiktoken; tiktoken.get_encoding('o200k_base')\""
        )
    encoding = tiktoken.get_encoding("o200k_base")
    return lambda text: len(encoding.encode(text, disallowed_special=()))


def _encoding_file() -> Path:
    """Where tiktoken keeps the encoding."""
    named = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    folder = Path(named or Path(tempfile.gettempdir()) / "data-gym-cache")
    return folder / hashlib.sha1(_ENCODING.encode(), usedforsecurity=False).hexdigest()


class Mrcr(RawBenchmark):
    """Conversations of a bin, in the model's own chat turns or as plain text."""

    def check(self, task: str, length: int, **options: Any) -> None:
        _check_bin(length)
        super().check(task, length, **options)
        _count()

    def ask(self, task: str, length: int, **options: Any) -> Asked:
        """`length` is one of `BINS`."""
        asked = super().ask(task, _check_bin(length), **options)
        added = {"length": length, "chat_template": asked.chat_template}
        return replace(
            asked,
            # the rows bring their turns with them
            recipe={**asked.recipe, **added},
            facts={**asked.facts, **added},
            chat_template=False,
            max_prompt_tokens=None,
        )

    def questions(
        self, task: Task, tokenizer: str, prompts: str, *, length: int, chat_template: bool
    ) -> Iterator[Question]:
        count = _count()
        render = _chat(tokenizer) if chat_template else None
        for where, row in self.raw_rows(task.name):
            with self.reading(where, task):
                if not _in_bin(row, length, count):
                    continue
                (question,) = self.read(row, task, prompts)
                turns = parse(row["prompt"])
            if render:
                text = render(turns)
                asked = text[max(text.rfind(turns[-1]["content"].strip()), 0) :]
                question = replace(question, asks=(Ask(text, question=asked),))
            yield question


def _check_bin(length: int) -> int:
    if length not in BINS:
        raise ConfigError(
            f"MRCR has no prompts of {length} tokens; its bins end at {', '.join(map(str, BINS))}."
        )
    return length


def _in_bin(row: Mapping[str, Any], length: int, count: Callable[[str], int]) -> bool:
    """More than half of `length` tokens and no more; the first bin has its lower end too."""
    if not _FEWEST * length / 2 <= int(row["n_chars"]) <= _MOST * length:
        return False
    tokens = sum(count(turn["content"]) for turn in parse(row["prompt"])) + count(row["answer"])
    return length // 2 < tokens <= length or tokens == length // 2 == BINS[0] // 2


def _chat(path: str) -> Callable[[Sequence[Any]], str]:
    tokenizer = load_tokenizer(path)
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            f"the tokenizer {path} has no chat template; set chat_template=False, or use the chat "
            "version of the model."
        )
    return lambda turns: str(
        tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True)
    )


def _plain(row: Mapping[str, Any], task: Task, prompts: str) -> Sequence[Question]:
    """The conversation as text, for models without turns."""
    form = _FORMS[prompts]
    turns = [form[t["role"]].format(content=t["content"]) for t in parse(row["prompt"])]
    reference = {key: row[key] for key in ("answer", "random_string_to_prepend")}
    ask = Ask("".join(turns) + form["begun"], question=turns[-1] + form["begun"])
    return [Question((ask,), reference, row["prompt"], ("official",))]


MRCR = Mrcr(
    name="mrcr",
    source="hub dataset openai/mrcr; Vodrahalli et al., 2024, arXiv 2409.12640",
    tasks={
        name: Task(name, "conversations", max_out_len=2048, in_paper=False)
        for name in ("2needle", "4needle", "8needle")
    },
    rules={
        "official": dict.fromkeys(
            ("2needle", "4needle", "8needle"), TaskRule("ratio", prefix_ratio)
        )
    },
    fields=("prompt", "answer", "random_string_to_prepend", "n_needles", "n_chars"),
    read=_plain,
    prompts=_FORMS,
    places=lambda task: (f"{task}_0.parquet", f"{task}_1.parquet"),
    cuts=False,
    tokenized=True,
)
