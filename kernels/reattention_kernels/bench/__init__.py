"""`python -m reattention_kernels.bench`: check, time and record the kernels on a GPU."""
