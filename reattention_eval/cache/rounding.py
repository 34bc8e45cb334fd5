"""Room in the cache is made a little larger than was asked for."""

MOST_ROUNDING = 1024


def rounded_capacity(tokens: int) -> int:
    """Room that is made for `tokens` tokens a row: at most one in 32 more, and 1,023.

    So prompts of nearly one length share one storage, and decode graphs, which are made for a
    storage, last.
    """
    step = min(MOST_ROUNDING, 1 << max(0, tokens.bit_length() - 6))
    return -(-tokens // step) * step
