"""What a hook exchanges on a model for as long as it is installed."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from reattention_eval.attention.rope import IdentityRotary
from reattention_eval.attention.survey import Survey


class Swap:
    """Leaves queries and keys un-rotated and has every layer call the attention of this name.

    Args:
        model: whose configurations are replaced by copies: they are shared between models.
        parts: what the survey found in it.
        attention: as registered with transformers.
    """

    def __init__(self, model: nn.Module, parts: Survey, attention: str) -> None:
        self._owner = parts.owner
        self._configs: list[tuple[nn.Module, Any]] = []
        copies: dict[int, Any] = {}
        for module in model.modules():
            config = module.__dict__.get("config")
            if config is None or not hasattr(config, "_attn_implementation"):
                continue
            if id(config) not in copies:
                copies[id(config)] = copy.deepcopy(config)
                copies[id(config)]._attn_implementation = attention
            self._configs.append((module, config))
            module.config = copies[id(config)]
        self._rotaries = {name: getattr(parts.owner, name) for name in parts.rotaries}
        for name, rotary in self._rotaries.items():
            setattr(parts.owner, name, IdentityRotary(rotary))

    def undo(self) -> None:
        """Leave the model as it was."""
        for name, rotary in self._rotaries.items():
            setattr(self._owner, name, rotary)
        for module, config in self._configs:
            module.config = config
