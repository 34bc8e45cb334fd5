"""Where a text stands in a prompt, against trying every window."""

from __future__ import annotations

import pytest
from tiny_tokenizers import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from reattention_eval.harness.text_places import places

WORDS = "the fox sleeps, the dog is 81-ab at 3644029é and the fox 3644029 is the dog 36440299 "
TEXT = "".join(f"{i} {WORDS}" for i in range(9))


def spaced_tokenizer() -> PreTrainedTokenizerFast:
    """A space belongs to the word behind it, as sentencepiece has it."""
    backend = Tokenizer(models.BPE(byte_fallback=False, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=["<unk>"], show_progress=False)
    backend.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


@pytest.mark.parametrize("make", [tiny_tokenizer, spaced_tokenizer])
@pytest.mark.parametrize("text", ["3644029", " the fox sleeps,", "81-ab", "9é and", "none of it"])
def test_as_trying_every_window(make, text):
    tokenizer = make()
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    wanted = text.strip()

    def shows(first, last):
        return wanted in tokenizer.decode(ids[first:last])

    most = 2 * len(wanted)
    smallest = []
    for first in range(len(ids)):
        lasts = (last for last in range(first + 1, first + most) if shows(first, last))
        last = next(lasts, None)
        if last is not None and not shows(first + 1, last):
            smallest.append((first, last))
    assert places(tokenizer, ids, text) == smallest
    assert bool(smallest) == (text != "none of it")


def test_what_stands_everywhere_stands_nowhere():
    tokenizer = tiny_tokenizer()
    ids = tokenizer(TEXT)["input_ids"]
    assert places(tokenizer, ids, " A ") == places(tokenizer, ids, "") == []
    assert places(tokenizer, [], "the fox") == []
