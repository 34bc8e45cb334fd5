"""How surprised a model is by a text or an answer, under the method it is attached to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reattention_eval.attention.token_ids import finite, non_finite
from reattention_eval.engine.session_state import SessionState
from reattention_eval.errors import ConfigError, NonFiniteLogitsError


@torch.inference_mode()
def token_nll(session: SessionState, input_ids: Tensor) -> Tensor:
    """Negative log-likelihood (nats) of every token behind the first, float64 [T - 1].

    The text is read as a prompt is, but for a question at its end (`last_tokens`), which it has
    not: by a view method chunk by chunk, so that a token is predicted from the view of its
    predecessor's chunk; by a native method in one forward. Afterwards the session is empty.

    Args:
        session: an attached session.
        input_ids: [1, T].

    Raises:
        ConfigError: not one row of at least one token.
        NonFiniteLogitsError: logits of the text are NaN or infinite.
    """
    if input_ids.ndim != 2 or len(input_ids) != 1 or not input_ids.numel():
        raise ConfigError(
            f"a text is scored alone, input_ids [1, tokens]; found {list(input_ids.shape)}."
        )
    session.reset()  # raises where the session is closed
    tokens, start = input_ids.shape[1], 0
    session._start(1, tokens)
    session._expect([tokens])
    found: list[Tensor] = []
    with session._timed("prefill_seconds"):
        for logits in session._read_all(input_ids[0].tolist()):
            following = input_ids[0, start + 1 : start + 1 + len(logits)].to(logits.device)
            start += len(logits)
            scores = logits[: len(following)].float()
            likely = scores.log_softmax(-1).gather(1, following[:, None])[:, 0]
            found.append(torch.where(finite(scores), -likely, torch.nan))
    session._stats.prefill_tokens += tokens
    nll = torch.cat([part.to(found[0].device) for part in found]).double()
    session.reset()
    if not bool(nll.isfinite().all()):
        raise NonFiniteLogitsError(
            "the logits of the text are NaN or infinite, so it has no likelihood; load the model "
            "in bfloat16 or float32, and check its weights."
        )
    return nll


def answer_nll(session: SessionState, answer: Sequence[int]) -> float:
    """Mean negative log-likelihood per token (nats) behind the only row of a session, all of which
    is read; see `Session.answer_nll`."""
    assert session._logits is not None
    logits, found = session._logits, []
    with session._returning():
        for i, token in enumerate(answer):
            chance = logits.double().log_softmax(-1)[0, token]
            found.append(torch.stack((chance, finite(logits)[0].double())))
            if i + 1 < len(answer):
                logits = session._step([token], [0])
    chances, numbers = torch.stack(found, 1).tolist()  # waits for the device, once
    if not all(numbers):
        session._forget()
        raise non_finite(logits, f"behind token {numbers.index(0)} of the answer or before it")
    return -sum(chances) / len(answer)
