"""What goes into the model wrapper for one prompt and what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One prompt; `chat_template` None means as the model is configured.

    Without a chat template its own `system` text stands in front of the prompt.
    `answer`, if given, is scored teacher forced before anything is generated.
    `question` is the end of the prompt, behind the document that it asks about, where known.
    `keep_views`: the record keeps what the prompt's last chunk attended to, layer by layer; not for
    samples that run together.
    """

    prompt: str
    answer_prefix: str = ""
    answer: str | None = None
    chat_template: bool | None = None
    system: str | None = None
    question: str | None = None
    keep_views: bool = False


@dataclass(frozen=True)
class Output:
    """Generated text and the record of how it came about (fields: `PromptRunner.run`)."""

    text: str
    record: dict[str, Any]


@dataclass(frozen=True)
class ScoredText:
    """A text's tokens, the NLL in nats of each but the first, and the record as in `Output`."""

    ids: list[int]
    nll: list[float]
    record: dict[str, Any]
