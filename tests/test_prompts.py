from __future__ import annotations

import hashlib
import struct

import pytest
from tiny_tokenizers import CHATML, tiny_tokenizer

from reattention_eval.errors import ConfigError, DataError
from reattention_eval.prompts import prepare_prompt

BOS = 1
LONG = " ".join(f"Sentence {i} of the essay says that café № {i} is open." for i in range(60))


def test_plain_prompt_is_the_tokenizers_own_ids():
    tokenizer = tiny_tokenizer()
    prepared = prepare_prompt(tokenizer, "The quick fox")
    assert prepared.input_ids == tokenizer("The quick fox")["input_ids"]
    assert prepared.n_cut == 0
    assert tokenizer.decode(prepared.input_ids) == "The quick fox"


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
@pytest.mark.parametrize("in_template", [False, True], ids=["bos-free-template", "bos-template"])
@pytest.mark.parametrize("adds_bos", [False, True], ids=["tokenizer-silent", "tokenizer-adds"])
def test_bos_is_never_doubled_and_follows_the_tokenizers_rule(chat, in_template, adds_bos):
    template = ("<s>" if in_template else "") + CHATML
    tokenizer = tiny_tokenizer(adds_bos=adds_bos, chat_template=template)
    ids = prepare_prompt(tokenizer, "The dog", chat_template=chat).input_ids
    expected = int(adds_bos or (chat and in_template))
    assert ids.count(BOS) == expected
    assert (ids[0] == BOS) == bool(expected)


def test_bos_already_written_in_the_prompt_is_not_added_again():
    ids = prepare_prompt(tiny_tokenizer(adds_bos=True), "<s>The dog").input_ids
    assert ids.count(BOS) == 1


def test_eos_that_a_tokenizer_appends_does_not_end_a_prompt():
    tokenizer = tiny_tokenizer(adds_bos=True, adds_eos=True)
    ids = prepare_prompt(tokenizer, "The dog").input_ids
    assert ids[0] == BOS
    assert 2 not in ids


def test_turns_system_and_begun_answer():
    tokenizer = tiny_tokenizer()
    prepared = prepare_prompt(
        tokenizer, "Who?", chat_template=True, system="Be brief.", answer_prefix="It is"
    )
    assert tokenizer.decode(prepared.input_ids, skip_special_tokens=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n"
        "<|im_start|>assistant\nIt is"
    )
    plain = prepare_prompt(tokenizer, "Who?", answer_prefix=" It is")
    assert tokenizer.decode(plain.input_ids) == "Who? It is"


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("max_tokens", [40, 41, 97, 200])
def test_plain_truncation_keeps_first_and_last_half(adds_bos, max_tokens):
    tokenizer = tiny_tokenizer(adds_bos=adds_bos)
    whole = tokenizer(LONG, add_special_tokens=False)["input_ids"]
    prepared = prepare_prompt(tokenizer, LONG, max_tokens=max_tokens)
    kept = max_tokens - adds_bos
    expected = whole[: (kept + 1) // 2] + whole[len(whole) - kept // 2 :]
    assert prepared.input_ids == [BOS] * adds_bos + expected
    assert prepared.n_cut == len(whole) - kept


def test_chat_truncation_leaves_template_and_begun_answer_whole():
    tokenizer = tiny_tokenizer(adds_bos=True)
    options = dict(chat_template=True, system="Be brief.", answer_prefix="The answer is")
    whole = prepare_prompt(tokenizer, LONG, **options)
    for max_tokens in (60, 61, 333):
        cut = prepare_prompt(tokenizer, LONG, max_tokens=max_tokens, **options)
        assert cut.n_tokens == max_tokens
        assert cut.n_cut == whole.n_tokens - max_tokens
        text = tokenizer.decode(cut.input_ids, skip_special_tokens=False)
        before = "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nSent"
        after = "<|im_end|>\n<|im_start|>assistant\nThe answer is"
        assert text.startswith(before)
        assert text.endswith("is open." + after)
        # what was taken out lies in one piece: a head and a tail of the whole prompt remain
        n_tail = next(
            n for n in range(max_tokens) if cut.input_ids[-n - 1] != whole.input_ids[-n - 1]
        )
        assert whole.input_ids[: max_tokens - n_tail] == cut.input_ids[: max_tokens - n_tail]


def test_a_prompt_that_fits_is_not_touched():
    tokenizer = tiny_tokenizer()
    n = prepare_prompt(tokenizer, LONG, chat_template=True).n_tokens
    assert prepare_prompt(tokenizer, LONG, chat_template=True, max_tokens=n).n_cut == 0
    assert prepare_prompt(tokenizer, LONG, chat_template=True, max_tokens=n - 1).n_cut == 1


def test_template_that_trims_and_text_that_repeats_the_template():
    trimming = CHATML.replace("m['content']", "m['content'] | trim")
    tokenizer = tiny_tokenizer(chat_template=trimming)
    text = "\n  <|im_end|>\n<|im_start|>assistant\n" + LONG + "  \n"
    cut = prepare_prompt(tokenizer, text, chat_template=True, max_tokens=50)
    assert cut.n_tokens == 50
    decoded = tokenizer.decode(cut.input_ids, skip_special_tokens=False)
    assert decoded.startswith("<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\nSent")
    assert decoded.endswith("is open.<|im_end|>\n<|im_start|>assistant\n")


def test_record_fields():
    prepared = prepare_prompt(tiny_tokenizer(), LONG)
    ids = prepared.input_ids
    assert prepared.n_tokens == len(ids)
    assert (prepared.head, prepared.tail) == (ids[:16], ids[-16:])
    packed = struct.pack(f"<{len(ids)}i", *ids)
    assert prepared.sha256 == hashlib.sha256(packed).hexdigest()


REFUSING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
BAD = {
    "empty": (dict(), dict(prompt=" \n"), "empty"),
    "no-template": (dict(chat_template=None), dict(chat_template=True), "no chat template"),
    "system-without-chat": (dict(), dict(system="x"), "chat template is off"),
    "too-small": (dict(), dict(chat_template=True, max_tokens=5), "leaves no room"),
    "zero": (dict(), dict(max_tokens=0), "positive"),
    "refused": (
        dict(chat_template=REFUSING + CHATML),
        dict(chat_template=True, system="x"),
        "refuses the turns",
    ),
    "text-cut": (
        dict(chat_template="{{ messages[0]['content'][:40] }}"),
        dict(chat_template=True),
        "and whole",
    ),
    "text-changed": (
        dict(chat_template="{{ messages[0]['content'] | replace('the', '') }}"),
        dict(chat_template=True),
        "and whole",
    ),
    "text-dropped": (dict(chat_template="hello"), dict(chat_template=True), "exactly once"),
}


@pytest.mark.parametrize(("make", "call", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_clear_sentence(make, call, words):
    with pytest.raises(ConfigError, match=words):
        prepare_prompt(tiny_tokenizer(**make), **{"prompt": LONG, **call})


def test_slow_tokenizer_is_refused_only_where_a_cut_is_needed(monkeypatch):
    tokenizer = tiny_tokenizer()
    monkeypatch.setattr(type(tokenizer), "is_fast", property(lambda self: False))
    assert prepare_prompt(tokenizer, LONG).n_cut == 0
    with pytest.raises(ConfigError, match="slow tokenizer"):
        prepare_prompt(tokenizer, LONG, max_tokens=50)


def test_half_a_character_is_said():
    """As JSON has of a pair that was cut in two."""
    with pytest.raises(DataError, match=r"the prompt holds half a character \(U\+D83D at charac"):
        prepare_prompt(tiny_tokenizer(), "The dog \ud83d.")
