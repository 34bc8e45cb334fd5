"""One checkpoint under one method: prompts in, text and records out, without OpenCompass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from reattention_eval.checkpoints import load_model
from reattention_eval.engine.scoring import token_nll
from reattention_eval.errors import ConfigError
from reattention_eval.harness.attached_model import AttachedModel
from reattention_eval.harness.fingerprint import checkpoint_fingerprint, digest
from reattention_eval.harness.samples import Output, Sample, ScoredText
from reattention_eval.harness.session_figures import session_figures
from reattention_eval.harness.text import (
    answer_token_ids,
    cut_at_stop,
    cut_at_token,
    cut_beginning,
    stop_rule,
)
from reattention_eval.prompts import PreparedPrompt, prepare_prompt
from reattention_eval.shared_tokens import SharedTokens


class PromptRunner(AttachedModel):
    """Loads once, attaches once, and runs prompts one after another or in batches.

    Args:
        path: local folder or hub id.
        method: `dict(type="reattention", local_size=..., ...)`; full attention if left out.
        max_seq_len: tokens of prompt and answer together; a longer prompt loses its middle
            (`prompts.prepare_prompt`), with the new tokens reserved. None: never cut.
        max_prompt_tokens: the same limit for the prompt alone; the smaller one counts.
        chat_template: put the prompt in the tokenizer's own chat turn.
        system: the system turn, with `chat_template`.
        dtype: "auto" (bfloat16 where the hardware computes in it), or a dtype's name.
        device_map: as transformers takes it; left out, the first GPU if there is one, else the CPU.
        tensor_parallel: processes, started by torchrun, that share the model, a GPU each. The first
            one works; each of the others calls `follow`.
        quantization: of the weights while they load, as transformers describes it in a config.json:
            `dict(quant_method="torchao", ...)`. Left out: as the checkpoint has them.
        cache: where keys and values are, as `attach` takes it: "device", "values_on_host", "host",
            "auto" (docs/cache.md). It changes no prediction.
        stop_words: generation ends before the first of them.
        stop_token_ids: further tokens that end generation; the checkpoint's own always do.
        name: what tables call the checkpoint; the last part of `path` if left out.
        tokenizer_only: load no weights; `get_token_len` works, `run` does not.
        loader: loads the model, unless processes share it; a `KeptModel` serves several runners.

    Raises:
        ConfigError: settings that contradict each other or that the method or model cannot take.
        CheckpointError: the checkpoint is missing, damaged or of another kind.
    """

    def __init__(
        self,
        path: str,
        method: Mapping[str, Any] | None = None,
        *,
        max_seq_len: int | None = None,
        max_prompt_tokens: int | None = None,
        chat_template: bool = False,
        system: str | None = None,
        dtype: str = "auto",
        device_map: Any = None,
        tensor_parallel: int = 1,
        quantization: Mapping[str, Any] | None = None,
        cache: str = "device",
        stop_words: Sequence[str] = (),
        stop_token_ids: Sequence[int] = (),
        name: str | None = None,
        tokenizer_only: bool = False,
        loader: Callable[..., Any] = load_model,
    ) -> None:
        self.max_seq_len = max_seq_len
        self.max_prompt_tokens = max_prompt_tokens
        self.chat_template = chat_template
        self.system = system
        self.stop_words = tuple(stop_words)
        super().__init__(
            path,
            method,
            dtype=dtype,
            device_map=device_map,
            tensor_parallel=tensor_parallel,
            quantization=quantization,
            cache=cache,
            stop_token_ids=stop_token_ids,
            name=name,
            tokenizer_only=tokenizer_only,
            loader=loader,
        )
        self._shared_tokens = SharedTokens(self.tokenizer)

    def settings(self) -> dict[str, Any]:
        """Everything about model and method that changes a prediction."""
        quantized = {} if self.quantization is None else {"quantization": self.quantization}
        return {
            **quantized,  # absent where nothing is: fingerprints of other runs stay
            "checkpoint": checkpoint_fingerprint(self.path),
            "method": {"name": self.method.name, **self.method.settings()},
            "dtype": str(getattr(self.model, "dtype", None)).removeprefix("torch."),
            "max_seq_len": self.max_seq_len,
            "max_prompt_tokens": self.max_prompt_tokens,
            "chat_template": self.chat_template,
            "system": self.system,
            "stop_words": self.stop_words,
            "stop_token_ids": self.stop_token_ids,
        }

    def fingerprint(self) -> str:
        """sha256 of `settings()`."""
        return digest(self.settings())

    def run(
        self,
        samples: Sequence[Sample],
        max_out_len: int,
        stop_words: Sequence[str] = (),
        max_prompt_tokens: int | None = None,
    ) -> list[Output]:
        """Text and record of each sample; more than one sample runs as one left-padded batch.

        The record: prompt_sha256, n_tokens, n_cut, document_tokens (before the question; None where
        that is not known), head_ids, tail_ids, must_select (the prompt is longer than what the
        method may leave whole; where it reads all prompts whole, tokens were decoded behind such a
        one), new_tokens, answer_nll (mean per token, None without an answer), batch_size, and the
        session's statistics of this call; with `keep_views`, `attended`
        (`Session.watching_views`).
        A sample alone keeps the cache of the prefix it shares with the one before it.

        Raises:
            ConfigError: no room for the prompt in max_seq_len or in the GPU's memory, or a prompt
                that cannot be prepared.
            SelectionError: the method should have selected and did not.
            NonFiniteLogitsError: logits that a token or the NLL is taken from are no numbers.
        """
        call = (list(samples), max_out_len, list(stop_words), max_prompt_tokens)
        outputs: list[Output] = self._together("_run", *call)
        return outputs

    def score_text(self, text: str) -> ScoredText:
        """Every token's NLL of a text as it stands, with the tokenizer's own special tokens.

        A text longer than `max_seq_len` loses its beginning, as OpenCompass cuts it.

        Raises:
            ConfigError: an empty text, or no room in the GPU's memory.
            SelectionError, NonFiniteLogitsError: as for `run`.
        """
        scored: ScoredText = self._together("_score", text)
        return scored

    def prepared(
        self, sample: Sample, max_out_len: int, max_prompt_tokens: int | None = None
    ) -> PreparedPrompt:
        """The tokens that `run` reads for a sample."""
        return self._prepare(sample, self._prompt_limit(max_out_len, max_prompt_tokens))

    def _run(
        self,
        samples: Sequence[Sample],
        max_out_len: int,
        stop_words: Sequence[str],
        max_prompt_tokens: int | None,
    ) -> list[Output]:
        limit = self._prompt_limit(max_out_len, max_prompt_tokens)
        prepared = [self._prepare(sample, limit) for sample in samples]
        words = [*self.stop_words, *stop_words]
        tokens = max((prompt.n_tokens for prompt in prepared), default=0) + max_out_len
        with self._fit_for_the_next(len(samples), tokens):
            if len(samples) > 1 and all(sample.answer is None for sample in samples):
                return self._run_batch(prepared, max_out_len, words)
            return [
                self._run_one(sample, prompt, max_out_len, words)
                for sample, prompt in zip(samples, prepared, strict=True)
            ]

    def _score(self, text: str) -> ScoredText:
        whole = list(self.tokenizer(text, verbose=False)["input_ids"])
        ids = cut_beginning(self.tokenizer, whole, self.max_seq_len)
        if not ids:
            raise ConfigError("the text to be scored is empty; drop the row from the dataset.")
        session = self.session
        with self._fit_for_the_next(1, len(ids)):
            session.reset_stats()
            nll = token_nll(session, torch.tensor([ids])).tolist()
            session.check_selected()
        facts = {
            "prompt_sha256": digest(ids),
            "n_tokens": len(ids),
            "n_cut": len(whole) - len(ids),
            "head_ids": ids[:16],
            "tail_ids": ids[-16:],
            "must_select": self.method.selects(len(ids)) and not self.method.reads_whole,
            "answer_nll": None,
            "batch_size": 1,
        }
        return ScoredText(ids, nll, {**facts, **session_figures(self.session)})

    def _prompt_limit(self, max_out_len: int, max_prompt_tokens: int | None) -> int | None:
        limits = [limit for limit in (max_prompt_tokens, self.max_prompt_tokens) if limit]
        if self.max_seq_len is not None:
            if self.max_seq_len <= max_out_len:
                raise ConfigError(
                    f"max_seq_len {self.max_seq_len} leaves no room for a prompt beside "
                    f"max_out_len {max_out_len} new tokens; raise the one or lower the other."
                )
            limits.append(self.max_seq_len - max_out_len)
        return min(limits) if limits else None

    def _prepare(self, sample: Sample, limit: int | None) -> PreparedPrompt:
        chat = self.chat_template if sample.chat_template is None else sample.chat_template
        system = self.system if sample.system is None else sample.system
        prompt = sample.prompt
        if sample.system and not chat:
            joint = "" if sample.system[-1].isspace() else "\n"
            prompt = f"{sample.system}{joint}{prompt}"
        return prepare_prompt(
            self.tokenizer,
            prompt,
            chat_template=chat,
            system=system if chat else None,
            answer_prefix=sample.answer_prefix,
            max_tokens=limit,
            shared=self._shared_tokens,
            question=sample.question,
        )

    def _run_one(
        self, sample: Sample, prompt: PreparedPrompt, max_out_len: int, words: list[str]
    ) -> Output:
        session = self.session
        session.reset_stats()
        answer_ids = (
            answer_token_ids(self.tokenizer, sample.answer_prefix, sample.answer)
            if sample.answer
            else []
        )
        ids = torch.tensor([prompt.input_ids], device=self.model.device)
        with session.watching_views() if sample.keep_views else nullcontext(list) as views:
            session.prefill(
                ids,
                reuse_prefix=True,
                max_new_tokens=max(max_out_len, len(answer_ids)),
                document_tokens=prompt.document_tokens,
            )
        nll = session.answer_nll(answer_ids) if answer_ids else None
        tokens = session.generate(
            max_new_tokens=max_out_len,
            stop_token_ids=self.stop_token_ids,
            stop=stop_rule(self.tokenizer, words),
        )
        session.check_selected()
        facts: dict[str, Any] = {"attended": kept} if any(kept := views()) else {}
        return self._output(
            prompt, tokens[0].tolist(), words, answer_nll=nll, batch_size=1, **facts
        )

    def _run_batch(
        self, prompts: Sequence[PreparedPrompt], max_out_len: int, words: list[str]
    ) -> list[Output]:
        session = self.session
        session.reset_stats()
        width = max(prompt.n_tokens for prompt in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - prompt.n_tokens :] = torch.tensor(prompt.input_ids)
            mask[row, width - prompt.n_tokens :] = 1
        tokens = session.generate(
            ids.to(self.model.device),
            max_new_tokens=max_out_len,
            attention_mask=mask.to(self.model.device),
            stop_token_ids=self.stop_token_ids,
            stop=stop_rule(self.tokenizer, words),
        )
        session.check_selected()
        return [
            self._output(prompt, row, words, answer_nll=None, batch_size=len(prompts))
            for prompt, row in zip(prompts, tokens.tolist(), strict=True)
        ]

    def _output(
        self, prompt: PreparedPrompt, tokens: list[int], words: list[str], **facts: Any
    ) -> Output:
        new = cut_at_token(tokens, self.stop_token_ids)
        text = cut_at_stop(self.tokenizer.decode(new, skip_special_tokens=True), words)
        record = {
            "prompt_sha256": prompt.sha256,
            "n_tokens": prompt.n_tokens,
            "n_cut": prompt.n_cut,
            "document_tokens": prompt.document_tokens,
            "head_ids": prompt.head,
            "tail_ids": prompt.tail,
            "must_select": self.method.must_select(prompt.n_tokens, len(new)),
            "new_tokens": len(new),
            **facts,
            **session_figures(self.session),
        }
        if not self.method.selects(prompt.n_tokens + len(tokens)):
            record["layer_steps_selected"] = 0  # of a batch, what selected were other rows
        return Output(text, record)
