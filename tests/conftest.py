"""Without a CUDA device the Triton kernels run in Triton's interpreter, on the CPU.

Triton reads the variable when it is imported, so it is set before any test module is. With one,
GPU_TEST_SHARE is how much of its memory this process may keep: what PyTorch holds unused is
missing where another process loads a kernel.

Tables are as wide as a test says: pytest hands its terminal's size down to xdist's workers.
"""

import os

import torch

for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
elif "GPU_TEST_SHARE" in os.environ:
    torch.cuda.set_per_process_memory_fraction(float(os.environ["GPU_TEST_SHARE"]))
