"""The model wrapper against transformers' own generate, and its handling of prompts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tiny_tokenizers import tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from reattention_eval.errors import CheckpointError, ConfigError, SelectionError
from reattention_eval.harness import LongContextLM, ReAttentionCausalLM, Sample

PROMPT = "The quick brown fox thinks about the reader of the essay, and the dog does not mind."
REATTENTION = dict(
    type="reattention",
    global_size=4, local_size=32, span_size=8, top_k=2, max_spans=4, chunk_size=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def lm(checkpoint: Path) -> LongContextLM:
    return LongContextLM(path=str(checkpoint), dtype="float32")


@pytest.fixture(scope="module")
def plain(checkpoint: Path) -> tuple[object, object]:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(checkpoint)


def continued(plain: tuple, text: str, new: int) -> str:
    model, tokenizer = plain
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    out = model.generate(ids, max_new_tokens=new, do_sample=False, pad_token_id=0)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def test_full_attention_says_what_transformers_says(lm: LongContextLM, plain: tuple) -> None:
    assert lm.generate([PROMPT], max_out_len=12) == [continued(plain, PROMPT, 12)]


def test_the_alias_is_the_class() -> None:
    assert ReAttentionCausalLM is LongContextLM


def test_a_batch_gives_each_row_what_it_gives_alone(lm: LongContextLM) -> None:
    prompts = [PROMPT, PROMPT * 3, "The dog"]
    alone = [lm.generate([prompt], max_out_len=8)[0] for prompt in prompts]
    assert lm.generate(prompts, max_out_len=8) == alone


def test_answer_nll_is_the_mean_over_the_answer(lm: LongContextLM, plain: tuple) -> None:
    output = lm.run([Sample(PROMPT, answer_prefix=" It is", answer="the dog")], 4)[0]
    model, tokenizer = plain
    before = tokenizer(PROMPT + " It is")["input_ids"]
    whole = tokenizer(PROMPT + " It is the dog")["input_ids"]
    assert whole[: len(before)] == before
    with torch.no_grad():
        logits = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    nll = [-logits[i - 1, whole[i]].item() for i in range(len(before), len(whole))]
    assert output.record["answer_nll"] == pytest.approx(sum(nll) / len(nll), rel=1e-4)
    assert output.text == continued(plain, PROMPT + " It is", 4)


def test_a_shared_prefix_is_reused_without_changing_a_bit(checkpoint: Path) -> None:
    def fresh() -> LongContextLM:
        return LongContextLM(path=str(checkpoint), dtype="float32", method=REATTENTION)

    samples = [Sample(PROMPT * 6 + end, answer="the fox") for end in (" one", " two", " three")]
    together = fresh()
    reused = [together.run([sample], 6)[0] for sample in samples]
    alone = [fresh().run([sample], 6)[0] for sample in samples]
    assert [o.text for o in reused] == [o.text for o in alone]
    assert [o.record["answer_nll"] for o in reused] == [o.record["answer_nll"] for o in alone]
    assert reused[1].record["reused_tokens"] > 0
    assert reused[1].record["reused_tokens"] % REATTENTION["chunk_size"] == 0
    assert reused[1].record["layer_steps_selected"] > 0
    assert reused[1].record["must_select"]


@pytest.mark.parametrize("chat", [False, True])
def test_bos_stands_once_in_front(bos_checkpoint: Path, chat: bool) -> None:
    lm = LongContextLM(path=str(bos_checkpoint), dtype="float32", chat_template=chat)
    record = lm.run([Sample(PROMPT)], 2)[0].record
    assert record["head_ids"][0] == 1
    assert record["head_ids"].count(1) == 1


def test_a_meta_template_with_bos_does_not_double_it(bos_checkpoint: Path) -> None:
    from opencompass.utils.prompt import PromptList

    template = {"round": [{"role": "HUMAN", "begin": "<s>Q: ", "end": "\n"},
                          {"role": "BOT", "begin": "A:", "generate": True}]}  # fmt: skip
    lm = LongContextLM(path=str(bos_checkpoint), dtype="float32", meta_template=template)
    section = [dict(section="round", pos="begin"), dict(role="HUMAN", prompt="the dog"),
               dict(role="BOT", prompt=""), dict(section="round", pos="end")]  # fmt: skip
    text = lm.parse_template(PromptList(section), mode="gen")
    assert text == "<s>Q: the dog\nA:"
    assert lm.run([Sample(text)], 2)[0].record["head_ids"].count(1) == 1


def test_the_middle_is_cut_and_the_new_tokens_are_reserved(checkpoint: Path) -> None:
    lm = LongContextLM(path=str(checkpoint), dtype="float32", max_seq_len=60)
    whole = lm.tokenizer(PROMPT * 4)["input_ids"]
    record = lm.run([Sample(PROMPT * 4)], 10)[0].record
    assert record["n_tokens"] == 50
    assert record["n_cut"] == len(whole) - 50
    assert record["head_ids"] == whole[:16]
    assert record["tail_ids"] == whole[-16:]
    assert lm.run([Sample(PROMPT)], 10, max_prompt_tokens=20)[0].record["n_tokens"] == 20
    with pytest.raises(ConfigError, match="leaves no room"):
        lm.run([Sample(PROMPT)], 60)


def test_chat_template_and_answer_prefix(checkpoint: Path) -> None:
    lm = LongContextLM(path=str(checkpoint), dtype="float32", chat_template=True)
    asked = lm.run([Sample("the dog", answer_prefix="It is")], 2)[0].record
    text = lm.tokenizer.decode([*asked["head_ids"], *asked["tail_ids"]])
    assert text.startswith("<|im_start|>user")
    assert text.endswith("<|im_start|>assistant\nIt is")
    off = lm.run([Sample("the dog", chat_template=False)], 2)[0].record
    assert lm.tokenizer.decode(off["head_ids"]) == "the dog"


def test_generation_ends_before_a_stop_word(lm: LongContextLM) -> None:
    text = lm.generate([PROMPT], max_out_len=24)[0]
    word = text[len(text) // 2 :][:3]
    stopped = lm.generate([PROMPT], 24, stopping_criteria=[word])[0]
    assert stopped == text[: text.index(word)]
    assert lm.run([Sample(PROMPT)], 24, stop_words=[word])[0].record["new_tokens"] < 24


def test_tokenizer_only_counts_but_does_not_generate(bos_checkpoint: Path) -> None:
    lm = LongContextLM(path=str(bos_checkpoint), tokenizer_only=True)
    assert lm.get_token_len("the dog") == len(lm.tokenizer("the dog")["input_ids"])
    with pytest.raises(ConfigError, match="tokenizer_only"):
        lm.generate(["the dog"], 2)


def test_a_failed_prompt_leaves_the_session_fit_for_the_next(
    lm: LongContextLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = lm.generate([PROMPT], 6)
    monkeypatch.setattr(lm.session, "answer_nll", lambda ids: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lm.run([Sample(PROMPT * 2, answer="x")], 4)
    monkeypatch.undo()
    assert lm.generate([PROMPT], 6) == expected


def test_a_run_that_did_not_select_is_an_error(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = LongContextLM(path=str(checkpoint), dtype="float32", method=REATTENTION)

    def silent() -> None:
        raise SelectionError("nothing was selected")

    monkeypatch.setattr(lm.session, "check_selected", silent)
    with pytest.raises(SelectionError):
        lm.generate([PROMPT * 6], 2)


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        (dict(method=dict(type="nothing")), ConfigError, "there are"),
        (dict(method=dict(type="reattention", local_size=9000)), ConfigError, "window"),
        (dict(generation_kwargs=dict(do_sample=True)), ConfigError, "greedy"),
        (dict(chat_template=True, meta_template=dict(round=[])), ConfigError, "drop one"),
        (dict(dtype="float8"), ConfigError, "dtype"),
        (dict(path="/nowhere/model"), CheckpointError, "/nowhere/model"),
    ],
)
def test_bad_settings(checkpoint: Path, settings: dict, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        LongContextLM(**{"path": str(checkpoint), **settings})


def test_the_fingerprint_follows_the_checkpoint_not_its_place(
    checkpoint: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "elsewhere")
    there = LongContextLM(path=str(copy), dtype="float32").fingerprint()
    assert there == LongContextLM(path=str(checkpoint), dtype="float32").fingerprint()
    tiny_tokenizer(adds_bos=True).save_pretrained(copy)
    assert LongContextLM(path=str(copy), dtype="float32").fingerprint() != there
