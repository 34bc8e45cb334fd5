"""Two methods of one's own: one that chooses views, one on the model's own attention."""

from contextlib import contextmanager
from dataclasses import dataclass

import torch

from reattention_eval.attention import View
from reattention_eval.cache_argument import given_cache
from reattention_eval.methods import NativeMethod, ViewMethod


@dataclass(frozen=True)
class EveryThird(ViewMethod):
    """Of what lies further back than `recent` tokens every third token, 100 at most."""

    name = "every_third"
    source = "docs/examples/example_methods"
    recent: int = 512

    def __post_init__(self):
        super().__post_init__()
        self.require(self.chunk_size <= self.recent, "chunk_size must fit into recent")

    @property
    def budget(self):
        return 100 + self.recent

    def view(self, row, query):
        first = row.length - self.recent
        far = torch.arange(0, first, 3, device=query.device)[-100:]
        return View(torch.cat((far, torch.arange(first, row.length, device=query.device))))


@dataclass(frozen=True)
class KeepEnds(NativeMethod):
    """Each layer keeps its first `sink` and last `recent` keys, at their own positions."""

    name = "keep_ends"
    source = "docs/examples/example_methods"
    sink: int = 4
    recent: int = 508

    @property
    def budget(self):
        return self.sink + self.recent

    def reach(self, window):
        return window

    @contextmanager
    def applied(self, model):
        layers = [module for module in model.modules() if hasattr(module, "k_proj")]
        hooks = [layer.register_forward_hook(self._drop, with_kwargs=True) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _drop(self, module, args, kwargs, output):
        layer = given_cache(kwargs).layers[module.layer_idx]
        if layer.keys.shape[2] > self.budget:
            ends = slice(0, self.sink), slice(-self.recent, None)
            layer.keys, layer.values = (
                torch.cat([x[:, :, end] for end in ends], 2) for x in (layer.keys, layer.values)
            )
