"""Text that a tokenizer can read."""

from __future__ import annotations

from reattention_eval.errors import DataError


def require_text(text: str, what: str) -> None:
    """Raise DataError where `text` holds half a character: a lone surrogate, which Python has for a
    byte that is in no encoding, and JSON for a pair that was cut in two; no tokenizer takes it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{what} holds half a character (U+{ord(text[error.start]):04X} at character "
            f"{error.start:,}), which no tokenizer reads; give it as whole UTF-8."
        ) from None
