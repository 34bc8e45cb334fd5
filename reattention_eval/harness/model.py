"""`LongContextLM`: any RoPE decoder under any long-context method, as OpenCompass sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opencompass.models.base import BaseModel

from reattention_eval.errors import ConfigError
from reattention_eval.harness.prompt_runner import PromptRunner
from reattention_eval.harness.samples import Sample


class LongContextLM(PromptRunner, BaseModel):
    """A checkpoint and a long-context method behind OpenCompass's model interface.

    Args:
        path, method, max_seq_len, tokenizer_only, settings: as in `PromptRunner`.
        meta_template: OpenCompass's own template, instead of `chat_template`.
        generation_kwargs: accepted for OpenCompass; decoding is greedy, anything else is an error.
        sync_rank: OpenCompass's; prompts are then taken from the first rank.

    Raises:
        ConfigError: settings that contradict each other or that the method or model cannot take.
        CheckpointError: the checkpoint is missing, damaged or of another kind.
    """

    def __init__(
        self,
        path: str,
        method: Mapping[str, Any] | None = None,
        max_seq_len: int | None = None,
        tokenizer_only: bool = False,
        meta_template: dict[str, Any] | None = None,
        generation_kwargs: dict[str, Any] | None = None,
        sync_rank: bool = False,
        **settings: Any,
    ) -> None:
        BaseModel.__init__(
            self,
            path=path,
            max_seq_len=max_seq_len,
            tokenizer_only=tokenizer_only,
            meta_template=meta_template,
            generation_kwargs=dict(generation_kwargs or {}),
            sync_rank=sync_rank,
        )
        _only_greedy(self.generation_kwargs)
        if settings.get("chat_template") and meta_template:
            raise ConfigError(
                "chat_template=True and a meta_template both wrap the prompt; drop one of them."
            )
        if self.eos_token_id is not None:
            settings["stop_token_ids"] = [*settings.get("stop_token_ids", ()), self.eos_token_id]
        PromptRunner.__init__(
            self, path, method, max_seq_len=max_seq_len, tokenizer_only=tokenizer_only, **settings
        )

    def settings(self) -> dict[str, Any]:
        """Everything about model and method that changes a prediction."""
        return {**super().settings(), "meta_template": self.template_parser.meta_template}

    def generate(
        self, inputs: list[str], max_out_len: int, stopping_criteria: Sequence[str] = ()
    ) -> list[str]:
        """Greedy continuations of `inputs`, as OpenCompass's own inferencers ask for them."""
        samples = [Sample(prompt=str(text)) for text in inputs]
        return [o.text for o in self.run(samples, max_out_len, stop_words=stopping_criteria)]


ReAttentionCausalLM = LongContextLM


def _only_greedy(kwargs: Mapping[str, Any]) -> None:
    asked = [
        name
        for name, plain in (("do_sample", False), ("num_beams", 1), ("num_return_sequences", 1))
        if kwargs.get(name, plain) != plain
    ]
    if asked:
        raise ConfigError(
            f"generation_kwargs asks for {', '.join(asked)}, but decoding here is greedy, one "
            "answer a prompt; remove them."
        )
