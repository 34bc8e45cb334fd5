"""InfiniteBench's official rules for one answer: right or wrong, or 0..1.

Source: src/compute_scores.py of OpenBMB/InfiniteBench, in the form that gives the published table
(Zhang et al., 2024, table 3) on the published predictions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from reattention_eval.evaluators.infinitebench_labels import (
    LETTERS,
    label_of,
    several,
    single,
    text_and_letter,
)
from reattention_eval.evaluators.libraries import rouge_scores
from reattention_eval.evaluators.opencompass_rules import first_number
from reattention_eval.evaluators.words import chinese_text, english_f1, overlap_f1

_WORD_BREAKS = re.compile("[\n:\"'.,?!{}]")


def words_of(text: str) -> list[str]:
    """The words between white space and the official list of marks."""
    return _WORD_BREAKS.sub(" ", text).split()


def is_first_digits(prediction: str, reference: Any) -> bool:
    """passkey, number_string: the first run of digits is the answer."""
    found = re.search("[0-9]+", prediction)
    return found is not None and found.group() == str(single(reference))


def is_word(prediction: str, reference: Any) -> bool:
    """kv_retrieval: the value is a word of the answer."""
    return str(single(reference)) in words_of(prediction)


def is_spoken_word(prediction: str, reference: Any) -> bool:
    """longdialogue_qa_eng: the first of the accepted names is a word of the answer in capitals."""
    return several(reference)[0] in [word.upper() for word in words_of(prediction)]


def is_last_number(prediction: str, reference: Any) -> bool:
    """code_run: the last word is the number."""
    words = re.sub("[\n.`'\":]", " ", prediction).split()
    right = single(reference)
    try:
        return bool(words) and int(words[-1]) == int(right)
    except ValueError:
        return False


def is_first_number(prediction: str, reference: Any) -> bool:
    """math_find: the first number, without its sign, is the answer."""
    found = first_number(prediction)
    return found is not None and float(found) == float(single(reference))


def share_of_leading_values(prediction: str, reference: Any) -> float:
    """math_calc: how many of the intermediate values are right before the first wrong one."""
    label = label_of(reference)
    values = label[0] if isinstance(label[0], list | tuple) else label
    given = re.findall("[0-9]+", prediction)
    right = 0
    for value, number in zip(values, given, strict=False):
        if int(value) != int(number):
            break
        right += 1
    return right / len(values)


def is_named_function(prediction: str, reference: Any) -> bool:
    """code_debug: the letter in front ("C."), else letter or name behind a phrase."""
    name, letter = text_and_letter(reference)
    text = prediction.strip()
    if text[:2] in (f"{letter}.", f"{letter}:"):
        return True
    text = re.sub("[\n`'\"\\-*]|Option|option", " ", text)
    text = re.sub(" {2,}", " ", text)
    phrases = ("answer is:", "is:", "answer:", "correct option is:")
    return _stands_behind(phrases, (letter, name), text) is True


def is_chosen_option(prediction: str, reference: Any) -> bool:
    """longbook_choice_eng: the letter in front, else behind a phrase, else the first one."""
    label = text_and_letter(reference)
    text = prediction.strip()
    if not text:
        return False
    if text[0] in LETTERS:
        return text[0] in label
    if text in label:
        return True
    text = re.sub(" {2,}", " ", re.sub("[\n\"'.,?!{}]", " ", text))
    found = _stands_behind(("answer is:", "answer:", "answer is", "option is"), label, text)
    if found is not None:
        return found
    first = next((word for word in text.split() if word in LETTERS), "")
    return first in label


def _stands_behind(phrases: Sequence[str], answers: Sequence[str], text: str) -> bool | None:
    """Whether one of the answers follows the first of the phrases that occurs; None if none does.

    One character, the space, is skipped between them.
    """
    for phrase in phrases:
        position = text.find(phrase)
        if position >= 0:
            return text[position + len(phrase) + 1 :].startswith(tuple(answers))
    return None


def best_english_f1(prediction: str, reference: Any) -> float:
    """longbook_qa_eng."""
    return max(english_f1(prediction, answer) for answer in several(reference))


def best_character_f1(prediction: str, reference: Any) -> float:
    """longbook_qa_chn: each character is a token."""
    given = chinese_text(prediction)
    return max(overlap_f1(given, chinese_text(answer)) for answer in several(reference))


def rouge_l_sum(prediction: str, reference: Any) -> float:
    """longbook_sum_eng: ROUGE-Lsum F1, lines being sentences."""
    kind = "rougeLsum"
    return float(rouge_scores(prediction, several(reference), (kind,))[kind].fmeasure)
