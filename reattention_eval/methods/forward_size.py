"""How many tokens of a prompt a forward of the model carries.

The chunk is what a method answers together; a forward may carry many chunks, and the answer is the
same. Large forwards fill the matrix units and need fewer launches; what they cost is memory.
"""

from __future__ import annotations

MOST_TOKENS = 8192  # of all rows: more was not faster (docs/efficiency.md)
MOST_CHUNKS = 64
SHARE_OF_FREE = 0.5  # of the memory left beside weights and cache

# tensors of a token alive at once: residual stream and norms; gate, up and their product; query,
# its rotated form and the output, key and value likewise
HIDDEN_COPIES, MLP_COPIES, HEAD_COPIES = 6, 3, 4


def token_values(hidden: int, intermediate: int, heads: int) -> int:
    """Values a forward holds at once for every token that it carries.

    heads: width of the queries and twice that of the keys.
    """
    return HIDDEN_COPIES * hidden + MLP_COPIES * intermediate + HEAD_COPIES * heads


def forward_size(chunk: int, rows: int, token_bytes: int, free: int) -> int:
    """Tokens of each of `rows` rows that a forward carries: a multiple of `chunk`, at least one.

    Args:
        token_bytes: that a forward holds for every token it carries.
        free: bytes beside weights and cache, on the fullest device.
    """
    most = min(MOST_TOKENS, int(free * SHARE_OF_FREE) // token_bytes) // rows
    return chunk * max(1, min(MOST_CHUNKS, most // chunk))
