"""Quest behind a prompt: turns are read in full, and what follows, also after a save, goes on."""

from __future__ import annotations

import naive_chosen as naive
import pytest
import torch
from naive_chosen import NaiveChosen
from tiny_models import random_prompt, tiny_model

from reattention_eval import attach
from reattention_eval.methods import Quest

QUEST = Quest(13, page_size=4, dense_layers=0, chunk_size=5)  # three pages


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # RoPE tables are in float32


def test_a_turn_is_read_in_full_by_quest_and_its_pages_follow():
    model, prompt, turn = tiny_model(), random_prompt(27), random_prompt(6, seed=3)
    loops = NaiveChosen(model, naive.quest(13, 4))
    loops.prefill(prompt[0].tolist())
    for token in (5, 71):
        loops.chunk([token])
    expected = [loops.prefill(turn[0].tolist()), loops.chunk([8])]
    with attach(model, QUEST) as session:
        session.prefill(prompt)
        for token in (5, 71):
            session.decode(torch.tensor([[token]]))
        close(session.extend(turn)[0], expected[0])
        close(session.decode(torch.tensor([[8]]))[0], expected[1])
        changed = prompt.clone()  # the pages of a kept prefix are those of the new prompt
        changed[0, 13] = 4
        session.prefill(changed, reuse_prefix=True)
        assert session.stats.reused_tokens == 10
        again = session.decode(torch.tensor([[8]]))
    with attach(model, QUEST) as session:
        session.prefill(changed)
        assert torch.equal(session.decode(torch.tensor([[8]])), again)


@pytest.mark.parametrize("kept", [False, True])
def test_what_follows_a_reading_that_was_ended_is_decoded(kept, tmp_path):
    model, prompt = tiny_model(), random_prompt(60)
    with attach(model, QUEST) as session:
        session.prefill(prompt, progress=lambda read: read >= 30)
        read = session.lengths[0]
        if kept:
            session.save(tmp_path / "kept")
            session.load(tmp_path / "kept")
        found = session.decode(torch.tensor([[5]]))
        assert session.stats.layer_steps_selected > 0
        session.prefill(prompt[:, :read])
        torch.testing.assert_close(session.decode(torch.tensor([[5]])), found, rtol=0, atol=1e-12)


def test_a_saved_session_goes_on(tmp_path):
    model, prompt = tiny_model(), random_prompt(27)
    with attach(model, QUEST) as session:
        session.prefill(prompt)
        session.save(tmp_path / "kept")
        expected = session.decode(torch.tensor([[5]]))
    with attach(model, QUEST) as session:
        session.load(tmp_path / "kept")
        assert torch.equal(session.decode(torch.tensor([[5]])), expected)
