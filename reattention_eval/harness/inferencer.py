"""The inferencer: every sample saved as it finishes, failures recorded, nothing run twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from opencompass.openicl.icl_inferencer import GenInferencer
from opencompass.utils import get_logger
from tqdm import tqdm

from reattention_eval.errors import ConfigError
from reattention_eval.harness.fingerprint import digest, plain, rows_fingerprint
from reattention_eval.harness.manifest import environment_part, method_part, model_part
from reattention_eval.harness.model import LongContextLM
from reattention_eval.harness.record_file import RecordFile, records_path, write_whole
from reattention_eval.harness.samples import Output, Sample


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
        system: system turn for this dataset.
        max_prompt_tokens: cut prompts to this many tokens, from the middle, as well as to the
            model's own max_seq_len.
        dataset_facts: written to the manifest as they are (length, style, seed, ...).
        stored_prompt_chars: a longer prompt is stored as head, tail, length and hash.

    Next to the predictions it leaves WORK/records/MODEL/DATASET.jsonl (one line a sample, fields as
    in `LongContextLM.run`) and DATASET.manifest.json. A sample that raises is recorded with its
    reason, the others go on; the predictions file is then withheld, so that the dataset shows as
    missing and a run with `-r` tries the failed samples again.
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
        max_prompt_tokens: int | None = None,
        dataset_facts: dict[str, Any] | None = None,
        stored_prompt_chars: int = 2000,
        **kwargs: Any,
    ) -> None:
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
        self.max_prompt_tokens = max_prompt_tokens
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

        keys = [self._key(sample) for sample in samples]
        records = RecordFile(records_path(folder, name), keys)
        write_whole(
            records.path.with_name(name.removesuffix(".json") + ".manifest.json"),
            self._manifest(name.removesuffix(".json"), samples),
        )
        pending = [i for i in range(len(samples)) if i not in records.done]
        get_logger().info(f"{name}: {len(records.done)} samples on disk, {len(pending)} to run")
        for batch in tqdm(_chunks(pending, self.batch_size or 1), disable=not self.is_main_process):
            for index, outcome in self._run(batch, samples):
                entry = {"index": index, "key": keys[index], "gold": plain(golds[index])}
                if isinstance(outcome, Output):
                    entry |= {"prediction": outcome.text, **outcome.record}
                else:
                    entry |= {"error": outcome}
                    get_logger().error(f"{name}: sample {index} failed: {outcome}")
                records.append(entry)
        if records.failed:
            get_logger().error(
                f"{name}: {len(records.failed)} of {len(samples)} samples failed, so no "
                f"predictions are written; their reasons are in {records.path}"
            )
            return []
        predictions = {
            str(i): self._prediction(sample, records.done[i]) for i, sample in enumerate(samples)
        }
        write_whole(folder / name, predictions)
        return [entry["prediction"] for entry in predictions.values()]

    def _samples(
        self, rows: Any, retriever: Any, ice_template: Any, prompt_template: Any
    ) -> list[Sample]:
        for column in (self.prompt_column, self.answer_prefix_column, self.answer_column):
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
                system=self.system,
            )
            for prompt, prefix, answer in zip(
                prompts, texts(self.answer_prefix_column), texts(self.answer_column), strict=True
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

    def _run(
        self, batch: Sequence[int], samples: Sequence[Sample]
    ) -> Iterator[tuple[int, Output | str]]:
        """Outputs of a batch, or reasons; a batch that fails is tried again one by one."""
        try:
            outputs = self.model.run(
                [samples[i] for i in batch],
                self.max_out_len,
                stop_words=self.stopping_criteria,
                max_prompt_tokens=self.max_prompt_tokens,
            )
            yield from zip(batch, outputs, strict=True)
        except Exception as error:
            if len(batch) == 1:
                get_logger().exception(f"sample {batch[0]}")
                yield batch[0], f"{type(error).__name__}: {error}"
                return
            for index in batch:
                yield from self._run([index], samples)

    def _key(self, sample: Sample) -> str:
        return digest(
            [
                self.model_fingerprint(), sample.prompt, sample.answer_prefix, sample.answer,
                sample.chat_template, sample.system, self.max_out_len, self.max_prompt_tokens,
                list(self.stopping_criteria),
            ]
        )  # fmt: skip

    def model_fingerprint(self) -> str:
        """The model's fingerprint, read from disk once."""
        if not hasattr(self, "_model_fingerprint"):
            self._model_fingerprint: str = self.model.fingerprint()
        return self._model_fingerprint

    def _manifest(self, dataset: str, samples: Sequence[Sample]) -> dict[str, Any]:
        return {
            "model": model_part(self.model),
            "method": method_part(self.model),
            "dataset": {
                "abbr": dataset,
                "n": len(samples),
                "fingerprint": rows_fingerprint(
                    [s.prompt, s.answer_prefix, s.answer] for s in samples
                ),
                "max_out_len": self.max_out_len,
                "max_prompt_tokens": self.max_prompt_tokens,
                "chat_template": self.model.chat_template
                if self.chat_template is None
                else self.chat_template,
                **self.dataset_facts,
            },
            "environment": environment_part(),
        }

    def _prediction(self, sample: Sample, record: dict[str, Any]) -> dict[str, Any]:
        return {
            "origin_prompt": compact(sample.prompt, self.stored_prompt_chars),
            "prediction": record["prediction"],
            "gold": record["gold"],
            "answer_nll": record["answer_nll"],
            "n_tokens": record["n_tokens"],
            "n_cut": record["n_cut"],
        }


def compact(prompt: str, limit: int) -> str:
    """The prompt itself up to `limit` characters, else its head, tail, length and hash."""
    if len(prompt) <= limit:
        return prompt
    half = limit // 2
    note = f"[... {len(prompt):,} characters, sha256 {digest(prompt)[:16]} ...]"
    return f"{prompt[:half]}\n{note}\n{prompt[-half:]}"


def _chunks(indices: Sequence[int], size: int) -> list[list[int]]:
    return [list(indices[at : at + size]) for at in range(0, len(indices), size)]
