"""Benchmarks, one object each: what is asked, of which files, and what the answers are worth.

Knows nothing of OpenCompass. `find_benchmark(name)` gives the object; a module is loaded when its
benchmark is asked for.
"""

from reattention_eval.benchmarks.registry import find_benchmark, list_benchmarks

__all__ = ["find_benchmark", "list_benchmarks"]
