"""Prompts made from raw data; knows nothing of OpenCompass."""

from reattention_eval.datasets.haystack import Haystack, check_haystack, load_haystack
from reattention_eval.datasets.needle import NeedleSample, needle_samples
from reattention_eval.datasets.needle_many import many_depths_samples
from reattention_eval.datasets.needle_parallel import ParallelSample, parallel_samples
from reattention_eval.datasets.sources import essays_file

__all__ = [
    "Haystack",
    "NeedleSample",
    "ParallelSample",
    "check_haystack",
    "essays_file",
    "load_haystack",
    "many_depths_samples",
    "needle_samples",
    "parallel_samples",
]
