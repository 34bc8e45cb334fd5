"""Prints for each argv tokens, ascending, the peak bytes of their ReAttention prefill beyond the KV
cache and beyond what a prefill of 3,072 tokens takes."""

import resource
import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1]))
from tiny_models import random_prompt, tiny_model

from reattention_eval import ReAttention, attach

torch.set_num_threads(1)
model = tiny_model(heads=2, kv_heads=1, layers=1, dtype=torch.float32, window=4096)
method = ReAttention(local_size=1024, max_spans=32, chunk_size=1024)
with attach(model, method) as session:
    session.prefill(random_prompt(3 * 1024))  # buffers that do not depend on the length
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for tokens in map(int, sys.argv[1:]):
        session.prefill(random_prompt(tokens))
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print((after - before) * 1024 - session.stats.cache_bytes)
