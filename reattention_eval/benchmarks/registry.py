"""The benchmarks by name: ours, those of installed packages, and any by its dotted path."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from reattention_eval.errors import ConfigError

if TYPE_CHECKING:
    from reattention_eval.benchmarks.base import Benchmark

# a package of one's own registers its objects under this group of entry points
ENTRY_POINTS = "reattention_eval.benchmarks"
_HERE = "reattention_eval.benchmarks"
_OURS = {
    "longbench": f"{_HERE}.longbench.LONGBENCH",
    "longbench_v2": f"{_HERE}.longbench_v2.LONGBENCH_V2",
    "leval": f"{_HERE}.leval.LEVAL",
    "infinitebench": f"{_HERE}.infinitebench.INFINITEBENCH",
    "mrcr": f"{_HERE}.mrcr.MRCR",
    "needle": f"{_HERE}.needle.NEEDLE",
    "ruler": f"{_HERE}.ruler.RULER",
    "perplexity": f"{_HERE}.perplexity.PERPLEXITY",
}


def list_benchmarks() -> list[str]:
    """Every name that `find_benchmark` knows."""
    return [*_OURS, *(name for name in _theirs() if name not in _OURS)]


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of that name, or at that path (`package.module.OBJECT`).

    Raises:
        ConfigError: there is none; the sentence lists those that there are.
    """
    path = _OURS.get(name) or _theirs().get(name) or (name if "." in name else None)
    if path is None:
        raise ConfigError(
            f"there is no benchmark {name!r}; choose from {', '.join(list_benchmarks())}, or give "
            "package.module.OBJECT."
        )
    module, _, attribute = path.rpartition(".")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"the benchmark {path} cannot be loaded: {error}.") from error
    from reattention_eval.benchmarks.base import Benchmark

    if not isinstance(found, Benchmark):
        raise ConfigError(f"{path} is a {type(found).__name__}; a benchmark is a `Benchmark`.")
    return found


def _theirs() -> dict[str, str]:
    found = entry_points(group=ENTRY_POINTS)
    return {point.name: point.value.replace(":", ".") for point in found}
