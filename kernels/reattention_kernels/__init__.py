"""Selection kernels of ReAttention: exact top-k keys, votes and spans.

Importable without Triton and without CUDA: each operation picks its fastest form at the call.
"""

from reattention_kernels.topk_keys import topk_keys
from reattention_kernels.votes import select_positions

__all__ = ["select_positions", "topk_keys"]
