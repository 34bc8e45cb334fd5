"""Prompts made from raw data; knows nothing of OpenCompass."""

from reattention_eval.datasets.haystack import Haystack, essays_file, load_haystack
from reattention_eval.datasets.needle import NeedleSample, needle_samples

__all__ = ["Haystack", "NeedleSample", "essays_file", "load_haystack", "needle_samples"]
