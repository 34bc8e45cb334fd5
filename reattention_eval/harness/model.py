"""`LongContextLM`: any RoPE decoder under any long-context method, as OpenCompass sees it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from opencompass.models.base import BaseModel

from reattention_eval.errors import ConfigError
from reattention_eval.harness.call_records import Answer, CallRecords
from reattention_eval.harness.prompt_runner import PromptRunner
from reattention_eval.harness.samples import Sample

FloatArray: TypeAlias = NDArray[np.float64]


class LongContextLM(PromptRunner, BaseModel):
    """A checkpoint and a long-context method behind OpenCompass's model interface.

    `path`, `method`, `max_seq_len`, `tokenizer_only` and further settings are `PromptRunner`'s.

    Args:
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
        # set by the inference task for as long as one of OpenCompass's own inferencers runs
        self.call_records: CallRecords | None = None
        # set by it too: no sample is begun from then on (`time_limit.run_ends`)
        self.until: float | None = None
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
        texts = [str(text) for text in inputs]

        def answers(wanted: Sequence[int]) -> list[Answer]:
            samples = [Sample(prompt=texts[i]) for i in wanted]
            outputs = self.run(samples, max_out_len, stop_words=stopping_criteria)
            return [Answer(o.text, {"prediction": o.text, **o.record}) for o in outputs]

        asked = [["gen", text, max_out_len, list(stopping_criteria)] for text in texts]
        return [str(value) for value in self._recorded(asked, answers, "")]

    def get_ppl(self, inputs: list[str], mask_length: Sequence[int] | None = None) -> FloatArray:
        """OpenCompass's perplexity score of each text under the method, [len(inputs)].

        As its HuggingFaceBaseModel has it of a text alone: the NLL in nats, summed over the tokens
        behind the first `mask_length` (at least one) and divided by the number of tokens less
        those masked; the pad token (else the end token) counts nowhere. A text longer than
        `max_seq_len` loses its beginning.

        Raises:
            ConfigError: `chat_template=True`, since a text is scored as it stands.
        """
        masks = list(mask_length) if mask_length is not None else [0] * len(inputs)
        pad = self._pad_id()

        def score(i: int) -> tuple[float, dict[str, Any]]:
            scored = self.score_text(str(inputs[i]))
            first = max(masks[i], 1)
            pairs = zip(scored.ids[first:], scored.nll[first - 1 :], strict=True)
            nll = math.fsum(nll for token, nll in pairs if token != pad)
            tokens = sum(token != pad for token in scored.ids) - masks[i]
            if tokens < 1:
                raise ConfigError(
                    f"of a text of {len(scored.ids)} tokens {masks[i]} are masked, so there is "
                    "nothing to score."
                )
            return nll / tokens, {"perplexity": nll / tokens, **scored.record}

        return self._scores("ppl", inputs, masks, score)

    def get_loglikelihood(self, inputs: list[str], conts: Sequence[str]) -> FloatArray:
        """log p(continuation | what stands before it) in nats of each text, [len(inputs)].

        As OpenCompass's HuggingFace and TurboMind models have it: the sum over the tokens of the
        text behind as many as the text has without the continuation. (Its HuggingFaceBaseModel
        masks the first tokens of the text, as many as the continuation has, instead.)

        Raises:
            ConfigError: as for `get_ppl`; a text without its continuation.
        """

        def score(i: int) -> tuple[float, dict[str, Any]]:
            text, cont = str(inputs[i]), str(conts[i])
            if not cont or cont not in text:
                raise ConfigError(f"the continuation {cont!r:.60} does not stand in its text.")
            scored = self.score_text(text)
            context = self.get_token_len(text.replace(cont, "")) - scored.record["n_cut"]
            value = -math.fsum(scored.nll[max(context, 1) - 1 :])
            return value, {"loglikelihood": value, **scored.record}

        return self._scores("loglikelihood", inputs, conts, score)

    def _scores(
        self,
        kind: str,
        inputs: Sequence[str],
        masks: Sequence[Any],
        score: Callable[[int], tuple[float, dict[str, Any]]],
    ) -> FloatArray:
        if self.chat_template:
            raise ConfigError(
                "a perplexity dataset scores texts as they stand, and chat_template=True would "
                "change them; set chat_template=False for it."
            )

        def answers(wanted: Sequence[int]) -> list[Answer]:
            found = [score(i) for i in wanted]
            return [Answer(value, {"prediction": "", **record}) for value, record in found]

        asked = [[kind, str(text), mask] for text, mask in zip(inputs, masks, strict=True)]
        return np.array(self._recorded(asked, answers, math.nan), dtype=np.float64)

    def _recorded(
        self, asked: Sequence[Any], answers: Callable[[Sequence[int]], list[Answer]], blank: Any
    ) -> list[Any]:
        if self.call_records is None:
            return [answer.value for answer in answers(range(len(asked)))]
        return self.call_records(asked, answers, blank)

    def _pad_id(self) -> int | None:
        configured = getattr(getattr(self.model, "generation_config", None), "pad_token_id", None)
        for token in (self.tokenizer.pad_token_id, configured, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return None


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
