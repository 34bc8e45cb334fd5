from __future__ import annotations

import random
import re
import time
from itertools import pairwise

import pytest
from real_model import real_tokenizer
from tiny_tokenizers import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from reattention_eval.datasets import Haystack, needle_samples
from reattention_eval.errors import ConfigError, DataError
from reattention_eval.prompts import prepare_prompt

STYLES = ["magic_number", "passkey", "sentence"]
NEEDLES = {
    "magic_number": "One of the special magic numbers for {key} is: {answer}.",
    "passkey": "The pass key is {answer}. Remember it. {answer} is the pass key.",
    "sentence": (
        "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park "
        "on a sunny day."
    ),
}
DEPTHS = [0, 10, 25, 50, 75, 90, 100]


def prose(sentences: int, seed: int = 0) -> Haystack:
    """Numbered sentences of uneven length, so that a position in the text can be read off it."""
    rng = random.Random(seed)
    some = "the of and reader writes essay idea work people make when often start 1984 years"
    words = some.split()
    text = " ".join(
        f"Number {i} {' '.join(rng.choices(words, k=rng.randrange(3, 18)))}{rng.choice('.?!')}"
        for i in range(sentences)
    )
    return Haystack("prose", text, "")


def unigram_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of another kind: SentencePiece-like pieces, no byte level, words joined."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=250, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator([prose(300).text, "San Francisco:;,\"'"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


TOKENIZERS = {
    "smollm2": real_tokenizer,
    "tiny": lambda: tiny_tokenizer(adds_bos=True),
    "unigram": unigram_tokenizer,
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


HAYSTACK = prose(3000)


def count(tokenizer, sample, chat_template):
    return prepare_prompt(
        tokenizer,
        sample.prompt,
        chat_template=chat_template,
        answer_prefix=sample.answer_prefix,
    ).n_tokens


@pytest.mark.parametrize("style", STYLES)
def test_every_prompt_is_exactly_as_long_as_asked(tokenizer, style):
    for chat_template in [False, True] if tokenizer.chat_template else [False]:
        for length in (700, 701, 702, 2049):
            samples = needle_samples(
                tokenizer, HAYSTACK, length=length, depths=DEPTHS, repeats=1, seed=length,
                chat_template=chat_template, style=style,
            )  # fmt: skip
            assert [count(tokenizer, s, chat_template) for s in samples] == [length] * 7
            assert {s.length for s in samples} == {length}


def make(**changes):
    settings = dict(length=1500, depths=DEPTHS, repeats=3, seed=7, chat_template=True)
    return needle_samples(tiny_tokenizer(), HAYSTACK, **{**settings, **changes})


@pytest.mark.parametrize("style", STYLES)
def test_the_needle_stands_whole_between_sentences_at_its_depth(style):
    for sample in make(style=style, length=4000):
        needle = NEEDLES[style].format(key=sample.key, answer=sample.answer)
        assert sample.prompt.count(needle) == 1
        before, after = sample.prompt.split(needle)
        # what remains around it is the haystack, whole and in order
        numbers = [int(n) for n in re.findall(r"Number (\d+)", before + " " + after)]
        assert all(b == a + 1 for a, b in pairwise(numbers))
        if sample.depth > 0:
            assert before[-2:] in (". ", "? ", "! ")
        first = before.find("Number") if "Number" in before else len(before)
        stretch = len(before) - first
        rest = after.rfind("\nWhat") if style != "sentence" else after.rfind("\n\nNow")
        # half the longest sentence (about 90 characters) is the most a boundary can be away
        at = 100 * stretch / (stretch + rest)
        assert abs(at - sample.depth) < 100 * 90 / (stretch + rest) + 0.5


def test_a_repeat_keeps_its_stretch_and_needle_at_every_depth():
    samples = make()
    assert [(s.repeat, s.depth) for s in samples] == [(r, d) for r in range(3) for d in DEPTHS]
    tokenizer = tiny_tokenizer()
    for repeat in range(3):
        own = [s for s in samples if s.repeat == repeat]
        assert len({(s.key, s.answer) for s in own}) == 1
        assert len({re.search(r"Number (\d+)", s.prompt)[1] for s in own}) == 1
        for shallow, deep in pairwise(own):
            needle = NEEDLES["magic_number"].format(key=shallow.key, answer=shallow.answer)
            head = shallow.prompt.partition(needle)[0]
            assert deep.prompt.startswith(head)
            ids = [
                prepare_prompt(tokenizer, sample.prompt, chat_template=True).input_ids
                for sample in (shallow, deep)
            ]
            shared = next(i for i, (x, y) in enumerate(zip(*ids, strict=False)) if x != y)
            assert shared >= len(tokenizer(head)["input_ids"])  # the template's head is extra


def test_repeats_and_seeds_differ_and_the_same_again_is_the_same():
    samples = make(depths=[50], repeats=12)
    assert len({s.key for s in samples}) == 12
    assert len({s.answer for s in samples}) == 12
    assert len({re.search(r"Number (\d+)", s.prompt)[1] for s in samples}) > 8
    assert make(depths=[50], repeats=12) == samples
    # more repeats or depths leave those that were there as they were
    assert make(depths=[50], repeats=3) == samples[:3]
    assert [s.prompt for s in make(depths=[50, 80], repeats=2)[::2]] == [
        s.prompt for s in samples[:2]
    ]
    assert {s.answer for s in make(depths=[50], repeats=12, seed=8)} & {
        s.answer for s in samples
    } == set()


def test_what_is_asked_and_how_the_answer_goes_on():
    plain, chat = (make(depths=[50], repeats=1, chat_template=c)[0] for c in (False, True))
    assert re.fullmatch(r"\d{7}", chat.answer)
    question = f"\nWhat is the special magic number for {chat.key} mentioned in the provided text?"
    assert chat.prompt.endswith(question)
    begun = f"The special magic number for {chat.key} mentioned in the provided text is"
    assert (plain.answer_prefix, chat.answer_prefix) == (f" {begun}", begun)
    assert chat.continuation == f" {chat.answer}"
    passkey = make(depths=[50], repeats=1, style="passkey")[0]
    assert passkey.prompt.endswith("What is the pass key? Answer with the number only.")
    assert (passkey.answer_prefix, passkey.continuation) == ("", passkey.answer)
    classic = make(depths=[50], repeats=1, style="sentence")[0]
    assert classic.reference.endswith(f"is {classic.answer}*{classic.key}")
    assert classic.key in classic.answer


def test_the_number_never_stands_in_the_haystack_already():
    digits = " ".join(str(n) for n in range(10_000, 100_000) if n % 7)
    haystack = Haystack("numbers", f"{HAYSTACK.text} {digits}", "")
    samples = needle_samples(
        tiny_tokenizer(), haystack, length=600, depths=[0], repeats=8, seed=0, style="passkey"
    )
    assert all(s.answer not in haystack.text for s in samples)


def test_a_haystack_too_small_is_an_error_and_one_just_large_enough_is_not():
    tokenizer = tiny_tokenizer()
    small = prose(60)
    n = len(tokenizer(small.text)["input_ids"])
    assert needle_samples(tokenizer, small, length=n - 50, depths=[0, 100], repeats=2)
    with pytest.raises(DataError, match=rf"prose has {n:,} tokens .* but [\d,]+ are needed"):
        needle_samples(tokenizer, small, length=2 * n, depths=[0], repeats=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(depths=[0, 101]), r"percent from 0 to 100; found 101"),
        (dict(depths=[]), "nothing to make"),
        (dict(depths=[0, 50, 50.0]), "the depth 50 is listed twice"),
        (dict(repeats=0), "nothing to make"),
        (dict(length=60), "leaves no room for the haystack"),
        (dict(style="pass_key"), "no needle style 'pass_key'; choose from magic_number, passkey"),
    ],
)
def test_bad_settings_are_answered_in_one_sentence(change, words):
    with pytest.raises(ConfigError, match=words):
        make(**change)


def test_a_million_tokens_take_seconds():
    tokenizer = tiny_tokenizer()
    haystack = prose(70_000)
    begun = time.process_time()
    sample = needle_samples(tokenizer, haystack, length=1_000_000, depths=[50], repeats=1, seed=3)[
        0
    ]
    assert count(tokenizer, sample, False) == 1_000_000
    assert time.process_time() - begun < 60
