"""The inferencer: every sample saved as it finishes, failures recorded, nothing run twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from opencompass.openicl.icl_inferencer import GenInferencer
from opencompass.utils import get_logger

from reattention_eval.errors import ConfigError
from reattention_eval.harness.fingerprint import plain
from reattention_eval.harness.model import LongContextLM
from reattention_eval.harness.sample_run import SampleRun
from reattention_eval.harness.samples import Sample


class LongContextGenInferencer(GenInferencer):
    """Runs a dataset through `LongContextLM`, in the place of OpenCompass's GenInferencer.

    Args:
        model: a `LongContextLM`.
        max_out_len: new tokens a sample.
        prompt_column: take the prompt from this column as it is; without it, OpenCompass's prompt
            template and retriever make it.
        answer_prefix_column: words with which the answer begins, put after the chat template.
        answer_column: score this column's text teacher forced (`answer_nll`).
        chat_template: on or off for this dataset; None leaves it to the model.
        system: system turn for this dataset; without a chat template it opens the prompt.
        system_column: the same, sample by sample; an empty text is none.
        question_column: the end of each prompt, behind its document.
        max_prompt_tokens: cut prompts to this many tokens, from the middle, as well as to the
            model's own max_seq_len.
        json_references: the references are JSON texts; predictions files hold what they say.
        dataset_facts: written to the manifest as they are (length, style, seed, ...).
        stored_prompt_chars: a longer prompt is stored as head, tail, length and hash.

    What it leaves, and what becomes of a sample that raises, says `SampleRun`.
    """

    def __init__(
        self,
        model: LongContextLM,
        max_out_len: int,
        prompt_column: str | None = None,
        answer_prefix_column: str | None = None,
        answer_column: str | None = None,
        chat_template: bool | None = None,
        system: str | None = None,
        system_column: str | None = None,
        question_column: str | None = None,
        max_prompt_tokens: int | None = None,
        json_references: bool = False,
        dataset_facts: dict[str, Any] | None = None,
        stored_prompt_chars: int = 2000,
        **kwargs: Any,
    ) -> None:
        # OpenCompass makes this folder where it is started and never uses it
        kwargs.setdefault("output_json_filepath", ".")
        super().__init__(model=model, max_out_len=max_out_len, **kwargs)
        if not isinstance(model, LongContextLM):
            raise ConfigError(
                f"LongContextGenInferencer drives LongContextLM, not {type(model).__name__}; "
                "use OpenCompass's GenInferencer with this model."
            )
        if not max_out_len or max_out_len < 1:
            raise ConfigError(
                f"max_out_len is {max_out_len}; set it on the model or on the dataset's inferencer."
            )
        self.prompt_column = prompt_column
        self.answer_prefix_column = answer_prefix_column
        self.answer_column = answer_column
        self.chat_template = chat_template
        self.system = system
        self.system_column = system_column
        self.question_column = question_column
        self.max_prompt_tokens = max_prompt_tokens
        self.json_references = json_references
        self.dataset_facts = plain(dataset_facts or {})
        self.stored_prompt_chars = stored_prompt_chars

    def inference(
        self,
        retriever: Any,
        ice_template: Any = None,
        prompt_template: Any = None,
        output_json_filepath: str | None = None,
        output_json_filename: str | None = None,
    ) -> list[str]:
        """Predictions in the dataset's order; an empty list if a sample failed."""
        folder = Path(output_json_filepath or self.output_json_filepath)
        name = output_json_filename or self.output_json_filename
        rows = retriever.dataset_reader.dataset["test"]
        samples = self._samples(rows, retriever, ice_template, prompt_template)
        column = retriever.dataset_reader.output_column
        golds = list(rows[column]) if column else [None] * len(samples)
        if self.json_references:
            golds = [json.loads(str(gold)) for gold in golds]

        run = SampleRun(
            self.model,
            self.max_out_len,
            stop_words=list(self.stopping_criteria),
            max_prompt_tokens=self.max_prompt_tokens,
            batch_size=self.batch_size or 1,
            facts=self._facts(),
            stored_prompt_chars=self.stored_prompt_chars,
            log=get_logger(),
            until=self.model.until,
        )
        return run(samples, golds, folder / name)

    def _facts(self) -> dict[str, Any]:
        chat = self.model.chat_template if self.chat_template is None else self.chat_template
        return {"chat_template": chat, **self.dataset_facts}

    def _samples(
        self, rows: Any, retriever: Any, ice_template: Any, prompt_template: Any
    ) -> list[Sample]:
        named = (
            self.prompt_column, self.system_column, self.answer_prefix_column, self.answer_column,
            self.question_column,
        )  # fmt: skip
        for column in named:
            if column is not None and column not in rows.column_names:
                raise ConfigError(
                    f"the dataset has no column {column!r}; it has {', '.join(rows.column_names)}."
                )
        if self.prompt_column is not None:
            prompts = [str(text) for text in rows[self.prompt_column]]
        else:
            prompts = self._templated(retriever, ice_template, prompt_template)

        def texts(column: str | None) -> list[Any]:
            return list(rows[column]) if column is not None else [None] * len(prompts)

        return [
            Sample(
                prompt=prompt,
                answer_prefix=prefix or "",
                answer=None if answer is None else str(answer),
                chat_template=self.chat_template,
                system=system or self.system,
                question=question,
            )
            for prompt, system, prefix, answer, question in zip(
                prompts,
                texts(self.system_column),
                texts(self.answer_prefix_column),
                texts(self.answer_column),
                texts(self.question_column),
                strict=True,
            )
        ]

    def _templated(self, retriever: Any, ice_template: Any, prompt_template: Any) -> list[str]:
        examples = retriever.retrieve()
        prompts = self.get_generation_prompt_list_from_retriever_indices(
            examples,
            retriever,
            self.gen_field_replace_token,
            # only needed to drop in-context examples; it tokenises every prompt once more
            max_seq_len=self.max_seq_len if any(examples) else None,
            ice_template=ice_template,
            prompt_template=prompt_template,
        )
        return [str(self.model.parse_template(prompt, mode="gen")) for prompt in prompts]
