"""OpenCompass's own inferencers through `LongContextLM`: generation, perplexity, likelihood."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_checkpoints import save_checkpoint
from tiny_tokenizers import tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from reattention_eval.errors import ConfigError, NonFiniteLogitsError
from reattention_eval.harness import LongContextLM, Sample
from reattention_eval.harness.record_file import records_path
from reattention_eval.harness.tasks import LongContextEvalTask, LongContextInferTask
from reattention_eval.report.frame import make_frame
from reattention_eval.report.records import read_records
from reattention_eval.report.run import read_run
from reattention_eval.report.tables import csv_table, grids

REATTENTION = dict(
    type="reattention",
    global_size=4, local_size=32, span_size=8, top_k=2, max_spans=4, chunk_size=16,
)  # fmt: skip
TEXTS = ["The dog thinks about the reader.", "The fox", "An essay of the dog " * 5]
QUESTIONS = [
    {"prompt": f"Which is number {i}?", "A": "the dog", "B": "the quick fox", "C": "an essay",
     "D": "the reader", "answer": "ABCD"[i % 4]}
    for i in range(5)
]  # fmt: skip
POISON = "zebra"


@pytest.fixture(scope="module")
def lm(checkpoint: Path) -> LongContextLM:
    return LongContextLM(path=str(checkpoint), dtype="float32")


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose logits are NaN behind one word, and right elsewhere."""
    tokenizer = tiny_tokenizer()
    folder = save_checkpoint(tmp_path_factory.mktemp("nan") / "tiny-nan", tokenizer)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    others = set(tokenizer("the The dog and number 0 fox 1 2 3")["input_ids"])
    others |= {i * 7919 % len(tokenizer) for i in range(16)}  # which `attach` looks at
    bad = [i for i in tokenizer(f" {POISON}")["input_ids"] if i not in others]
    assert bad
    with torch.no_grad():
        model.model.embed_tokens.weight[bad] = torch.nan
    model.save_pretrained(folder)
    return folder


def opencompass_model(kind: str, path: Path) -> Any:
    """OpenCompass's own model class; what it calls of transformers 4 is put back on 5."""
    import opencompass.models as models

    own = getattr(models, kind)(path=str(path), model_kwargs=dict(torch_dtype=torch.float32),
                                max_seq_len=8192)  # fmt: skip
    if not hasattr(own.tokenizer, "batch_encode_plus"):
        own.tokenizer.batch_encode_plus = own.tokenizer.__call__
    return own


def test_of_a_batch_only_long_rows_selected(checkpoint: Path) -> None:
    own = LongContextLM(path=str(checkpoint), dtype="float32", method=REATTENTION)
    short, long = own.run([Sample("the dog"), Sample("the dog thinks " * 60)], 2)
    assert short.record["layer_steps_selected"] == 0 < long.record["layer_steps_selected"]


@pytest.mark.parametrize("masks", [None, [2, 1, 7]])
def test_perplexity_is_opencompass_own(
    lm: LongContextLM, checkpoint: Path, masks: list[int] | None
) -> None:
    peer = opencompass_model("HuggingFaceBaseModel", checkpoint)
    theirs = [
        float(peer.get_ppl([text], None if masks is None else [masks[i]])[0])
        for i, text in enumerate(TEXTS)
    ]
    assert lm.get_ppl(TEXTS, masks) == pytest.approx(theirs, abs=1e-4)


def test_likelihood_is_opencompass_own(lm: LongContextLM, checkpoint: Path) -> None:
    peer = opencompass_model("HuggingFaceCausalLM", checkpoint)
    conts = [" the reader.", " fox", " dog"]
    for text, cont in zip(TEXTS[:2], conts[:2], strict=True):
        theirs = float(peer.get_loglikelihood([text], [cont])[0])
        assert lm.get_loglikelihood([text], [cont])[0] == pytest.approx(theirs, abs=1e-4)


def test_perplexity_with_bos_and_a_long_text_cut_at_its_beginning(bos_checkpoint: Path) -> None:
    peer = opencompass_model("HuggingFaceBaseModel", bos_checkpoint)
    own = LongContextLM(path=str(bos_checkpoint), dtype="float32", max_seq_len=24)
    peer.max_seq_len = 24
    theirs = [float(peer.get_ppl([text])[0]) for text in TEXTS]
    assert own.get_ppl(TEXTS) == pytest.approx(theirs, abs=1e-4)


def test_within_the_scope_the_method_scores_as_full_attention(
    lm: LongContextLM, checkpoint: Path
) -> None:
    own = LongContextLM(path=str(checkpoint), dtype="float32", method=REATTENTION)
    assert own.get_ppl(TEXTS[:2]) == pytest.approx(lm.get_ppl(TEXTS[:2]), abs=1e-4)


def test_beyond_the_scope_a_text_is_scored_through_the_method(checkpoint: Path) -> None:
    """Against prefill of every chunk's beginning and the same chunk as a conversation's tail."""
    text = " ".join(f"The dog {i} thinks of the fox." for i in range(40))
    own = LongContextLM(path=str(checkpoint), dtype="float32", method=REATTENTION)
    scored = own.score_text(text)
    assert scored.record["layer_steps_selected"] > 0
    assert scored.record["must_select"]
    chunk = REATTENTION["chunk_size"]
    for end in range(chunk, len(scored.ids) - 1, 5 * chunk):
        logits = own.session.prefill(torch.tensor([scored.ids[:end]]))[0].double()
        nll = -logits.log_softmax(-1)[scored.ids[end]].item()
        assert scored.nll[end - 1] == pytest.approx(nll, abs=1e-4)


def test_what_cannot_be_scored_is_one_error(lm: LongContextLM, checkpoint: Path) -> None:
    chat = LongContextLM(path=str(checkpoint), dtype="float32", chat_template=True)
    with pytest.raises(ConfigError, match="chat_template=False"):
        chat.get_ppl(TEXTS)
    with pytest.raises(ConfigError, match="does not stand in its text"):
        lm.get_loglikelihood(["the dog"], ["the fox"])
    with pytest.raises(ConfigError, match="empty"):
        lm.get_ppl([""])


def test_logits_that_are_no_numbers_are_an_error(poisoned: Path) -> None:
    own = LongContextLM(path=str(poisoned), dtype="float32")
    for samples in (
        [Sample(f"the {POISON}")],
        [Sample(f"the {POISON}"), Sample("the dog")],
        [Sample("the dog", answer=POISON + POISON)],
    ):
        with pytest.raises(NonFiniteLogitsError):
            own.run(samples, 2)
    with pytest.raises(NonFiniteLogitsError):
        own.get_ppl([f"the {POISON} and the dog"])
    assert own.run([Sample("the dog")], 2)[0].record["new_tokens"] >= 0


# -- whole tasks -----------------------------------------------------------------------------------


def generative(task_config: Callable[..., Any], rows: list[dict[str, Any]], **model: Any) -> Any:
    config = task_config(rows, **model)
    config.datasets[0][0].infer_cfg.inferencer = {
        "type": "opencompass.openicl.icl_inferencer.GenInferencer", "max_out_len": 4,
    }  # fmt: skip
    return config


def multiple_choice(task_config: Callable[..., Any], **model: Any) -> Any:
    """As OpenCompass's ARC-c ppl configuration asks: one template an option."""
    config = task_config(QUESTIONS, **model)
    dataset = config.datasets[0][0]
    dataset.reader_cfg = {
        "input_columns": ["prompt", "A", "B", "C", "D"],
        "output_column": "answer",
    }
    dataset.infer_cfg.prompt_template.template = {
        option: {"round": [{"role": "HUMAN", "prompt": "Question: {prompt}\nAnswer: "},
                           {"role": "BOT", "prompt": f"{{{option}}}"}]}
        for option in "ABCD"
    }  # fmt: skip
    dataset.infer_cfg.inferencer = {
        "type": "opencompass.openicl.icl_inferencer.PPLInferencer", "batch_size": 2,
    }  # fmt: skip
    return config


def paths(config: Any) -> tuple[Path, Path]:
    predictions = Path(config.work_dir) / "predictions" / "tiny" / "rows.json"
    return predictions, records_path(predictions.parent, predictions.name)


def rows(n: int, bad: int | None = None) -> list[dict[str, Any]]:
    return [
        {"prompt": f"The dog number {i}" + (f" {POISON}" if i == bad else ""), "answer": f"fox {i}"}
        for i in range(n)
    ]


def test_any_generative_dataset_leaves_records_and_counts(task_config: Callable[..., Any]) -> None:
    config = generative(task_config, rows(3), batch_size=2, method=REATTENTION)
    LongContextInferTask(config).run()
    LongContextEvalTask(config).run()
    predictions, records = paths(config)
    saved = json.loads(predictions.read_text(encoding="utf-8"))
    kept = read_records(records)
    assert [kept[i]["prediction"] for i in range(3)] == [saved[str(i)]["prediction"] for i in "012"]
    assert all(record["n_tokens"] > 0 and record["layer_steps"] > 0 for record in kept.values())
    frame = make_frame(read_run(Path(config.work_dir), [("tiny", "rows")]))
    assert grids(frame)["accuracy, %"][1] == [["reattention 68", "0.0 (n=3, never selected)"]]
    assert csv_table(frame).splitlines()[1].split(",")[5:7] == ["3", "0"]


def test_a_resumed_generative_dataset_runs_nothing_twice(
    task_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = generative(task_config, rows(4))
    LongContextInferTask(config).run()
    predictions, records = paths(config)
    whole = predictions.read_bytes()
    lines = records.read_bytes().splitlines(keepends=True)
    predictions.unlink()
    # killed after its second sample: OpenCompass's own file knows of one only
    records.write_bytes(b"".join(lines[:2]) + b'{"index": 2, "pre')
    done = {"idx": "0", **json.loads(whole)["0"]}
    predictions.with_name("tmp_rows.jsonl").write_text(json.dumps(done) + "\n")
    ran: list[str] = []
    run = LongContextLM.run

    def counted(self: LongContextLM, samples: Any, *args: Any, **kwargs: Any) -> Any:
        ran.extend(sample.prompt for sample in samples)
        return run(self, samples, *args, **kwargs)

    monkeypatch.setattr(LongContextLM, "run", counted)
    LongContextInferTask(config).run()
    assert ran == [row["prompt"] for row in rows(4)[2:]]
    assert predictions.read_bytes() == whole
    assert sorted(read_records(records)) == [0, 1, 2, 3]


def test_samples_without_numbers_fail_and_the_others_are_kept(
    task_config: Callable[..., Any], poisoned: Path
) -> None:
    for config in (
        generative(task_config, rows(3, bad=1), path=str(poisoned)),
        task_config(rows(3, bad=1), path=str(poisoned)),
    ):
        with pytest.raises(SystemExit, match=r"rows\.json"):
            LongContextInferTask(config).run()
        predictions, records = paths(config)
        kept = read_records(records)
        assert "NonFiniteLogitsError" in kept[1]["error"]
        assert "prediction" in kept[0]
        assert "prediction" in kept[2]
        assert not predictions.exists()
        cells = read_run(Path(config.work_dir), [("tiny", "rows")])
        assert grids(make_frame(cells))["score, 0-100"][1] == [["full", "failed (1 of 3 samples)"]]
        records.unlink()


@pytest.mark.parametrize("method", [{"type": "full"}, REATTENTION])
def test_a_multiple_choice_dataset_is_answered_as_by_opencompass(
    task_config: Callable[..., Any], checkpoint: Path, method: dict[str, Any]
) -> None:
    config = multiple_choice(task_config, method=method)
    LongContextInferTask(config).run()
    LongContextEvalTask(config).run()
    predictions, records = paths(config)
    saved = json.loads(predictions.read_text(encoding="utf-8"))
    peer = opencompass_model("HuggingFaceBaseModel", checkpoint)
    for i, question in enumerate(QUESTIONS):
        scores = []
        for option in "ABCD":
            text = f"Question: {question['prompt']}\nAnswer: \n{question[option]}"
            scores.append(float(peer.get_ppl([text])[0]))
            assert saved[str(i)][f"label: {option}"]["PPL"] == pytest.approx(scores[-1], abs=1e-4)
        assert saved[str(i)]["prediction"] == "ABCD"[int(np.argmin(scores))]
    assert len(read_records(records)) == 4 * len(QUESTIONS)  # a record a text
    right = sum(saved[str(i)]["prediction"] == q["answer"] for i, q in enumerate(QUESTIONS))
    cells = read_run(Path(config.work_dir), [("tiny", "rows")])
    ((_, figure),) = grids(make_frame(cells))["accuracy, %"][1]
    assert figure.startswith(f"{100 * right / 5:.1f} (n=5")


def test_likelihood_through_opencompass_own_inferencer(task_config: Callable[..., Any]) -> None:
    config = multiple_choice(task_config)
    dataset = config.datasets[0][0]
    dataset.rows = [{**row, "cont": row["A"]} for row in QUESTIONS]
    template = dataset.infer_cfg.prompt_template.template
    dataset.infer_cfg.prompt_template.template = {"A": template["A"]}
    dataset.infer_cfg.inferencer.type = "opencompass.openicl.icl_inferencer.LLInferencer"
    LongContextInferTask(config).run()
    predictions, _ = paths(config)
    saved = json.loads(predictions.read_text(encoding="utf-8"))
    model = AutoModelForCausalLM.from_pretrained(config.models[0].path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(config.models[0].path)
    for i, question in enumerate(QUESTIONS):
        text = f"Question: {question['prompt']}\nAnswer: \n{question['A']}"
        ids = tokenizer(text)["input_ids"]
        start = len(tokenizer(text.replace(question["A"], ""))["input_ids"])
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        expected = sum(scores[at - 1, ids[at]].item() for at in range(start, len(ids)))
        found = saved[str(i)]["label: A"]["Loglikelihood"]
        assert found == pytest.approx(expected, abs=1e-4)
