"""Prompts that ask one question after another about one document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reattention_eval.errors import ConfigError
from reattention_eval.prompts import chat_shell, special_prefix
from reattention_eval.unicode_text import require_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ASKED = "\n\nAnswer the question based on the text above.\n\nQuestion: "


class DocumentPrompt:
    """The document first, the question behind it: all prompts share the document's tokens.

    In a user turn where the tokenizer has a chat template, else as plain text that ends with
    "Answer:". Both parts are tokenised by themselves, so that no question changes a token of the
    document.

    Args:
        tokenizer: the model's.
        text: the document.

    Attributes:
        ids: the tokens of the beginning of every prompt, the document's last one included.

    Raises:
        ConfigError: no text, or a chat template that does not show it exactly once.
        DataError: half a character, here or in a question (`require_text`).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: str) -> None:
        require_text(text, "the document")
        if not text.strip():
            raise ConfigError("the document holds no text, so there is nothing to ask about.")
        self._tokenizer = tokenizer
        before, self._after = "", "\nAnswer:"
        if getattr(tokenizer, "chat_template", None):
            before, self._after = chat_shell(tokenizer)
        ids = self._tokens(before + text.strip())
        prefix = special_prefix(tokenizer)
        self.ids = ids if prefix and ids[: len(prefix)] == prefix else prefix + ids

    def ask(self, question: str, read: int | None = None) -> list[int]:
        """The whole prompt; of the document only the first `read` tokens where that is given."""
        require_text(question, "the question")
        return self.ids[:read] + self._tokens(_ASKED + question.strip() + self._after)

    def _tokens(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
