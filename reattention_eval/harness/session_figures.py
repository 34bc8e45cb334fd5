"""The session's statistics of one call under the names that records give them."""

from __future__ import annotations

from typing import Any

from reattention_eval.engine import Session


def session_figures(session: Session) -> dict[str, Any]:
    """Of the last call; layer-steps and views are those of the whole prompt, whatever of it was
    still in the cache."""
    stats, reused = session.stats.as_dict(), session.reused
    steps = stats["layer_steps"] + reused.layer_steps
    attended = stats["mean_view"] * stats["layer_steps"] + reused.view_tokens
    whole = {
        "layer_steps": steps,
        "layer_steps_selected": stats["layer_steps_selected"] + reused.selected,
        "mean_view": round(attended) / steps if steps else 0.0,
    }
    return {"decode_tokens_per_second": stats.pop("tokens_per_second"), **stats, **whole}
