"""Without a CUDA device the Triton kernels run in Triton's interpreter, on the CPU.

Triton reads the variable when it is imported, so it is set before any test module is.
"""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
