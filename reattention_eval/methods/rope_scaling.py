"""RoPE stretched beyond the trained window by transformers' own settings, without training."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from reattention_eval.context_length import known_context_length
from reattention_eval.errors import ConfigError
from reattention_eval.methods.base import BEYOND, MOST, NativeMethod

if TYPE_CHECKING:
    from torch import Tensor, nn

FACTOR = 4.0  # of the ReAttention paper's DynamicNTK baseline


@dataclass(frozen=True)
class RopeScaling(NativeMethod):
    """Full attention over all keys, with other RoPE frequencies than the checkpoint's.

    Args:
        factor: how many trained windows it is to read; 4, as the ReAttention paper's DynamicNTK
            baseline, unless `length` is given.
        length: instead, tokens that it is to read: the factor is the smallest whole number of
            windows that holds them.
    """

    family: ClassVar[str] = BEYOND
    rope_type: ClassVar[str]  # transformers' name
    factor: float | None = None
    length: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        length, factor = self.length, self.factor
        self.require(
            length is None or factor is None,
            f"give factor or length, not both; found {factor!r:.80} and {length!r:.80}",
        )
        if length is not None:
            self._check_kind("length", "int")
            self.require(length >= 1, f"length must be at least 1, found {length}")
            return
        factor = FACTOR if factor is None else factor
        right = type(factor) in (int, float) and 1 <= factor <= MOST
        self.require(right, f"factor must be a number of at least 1, found {factor!r:.80}")
        object.__setattr__(self, "factor", float(factor))  # 4 and 4.0 are one setting

    @property
    def budget(self) -> None:
        return None

    def factor_on(self, window: int) -> float:
        """The factor on a model trained to `window` tokens."""
        return float(math.ceil(self.length / window)) if self.length else float(self.factor or 1)

    def reach(self, window: int) -> int:
        return int(self.factor_on(window) * window)

    def scaling(self, window: int) -> dict[str, Any]:
        """What transformers is told, for a model trained to `window` tokens."""
        return {"rope_type": self.rope_type, "factor": self.factor_on(window)}

    def configure(self, config: Any) -> Any:
        """The configuration with this scaling; `max_position_embeddings` stays the trained window.

        Raises:
            ConfigError: the checkpoint scales its RoPE already, in another way, or by layer type.
        """
        import transformers

        old = transformers.__version__.startswith("4.")
        name = "rope_scaling" if old else "rope_parameters"
        own = dict(getattr(config, name, None) or {})
        if any(isinstance(value, dict) for value in own.values()):
            raise ConfigError(
                f"{self.name} cannot scale the RoPE of this {config.model_type} model, which has "
                "one for each type of its layers; run it with a method that renumbers positions, "
                "as reattention or streaming_llm do."
            )
        kind = own.get("rope_type") or own.get("type") or "default"
        window = known_context_length(config)
        if kind != "default":  # the method's own result is the one that is taken
            window = int(config.max_position_embeddings)
        wanted = {**own, **self.scaling(window)}
        if kind != "default" and wanted != own:
            raise ConfigError(
                f"{self.name} needs a model whose RoPE is not scaled, and this "
                f"{config.model_type} model's is already ({kind}, factor {own.get('factor')}): one "
                "scaling cannot be put on another; run it as it is (full), or with a method that "
                "renumbers positions (reattention)."
            )
        wanted.pop("type", None)
        if getattr(config, "head_dim", 0) is None:  # 4.57 computes with it (Mistral)
            config.head_dim = config.hidden_size // config.num_attention_heads
        setattr(config, name, wanted)
        if old and hasattr(config, "rope_parameters"):  # 4.57 does not read it, and it says another
            del config.rope_parameters
        return config

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        from reattention_eval.attention.rope import is_rotary

        kinds = [getattr(m, "rope_type", None) for m in model.modules() if is_rotary(m)]
        if not kinds or any(kind != self.rope_type for kind in kinds):
            raise ConfigError(
                f"{self.name} is not what this {type(model).__name__} computes: its RoPE does not "
                f"follow its configuration ({', '.join(map(str, kinds))}); use another method."
            )
        yield


@dataclass(frozen=True)
class LinearRope(RopeScaling):
    """Position interpolation: every position divided by the factor.

    Chen et al., 2023, arXiv 2306.15595, section 2.3.
    """

    name: ClassVar[str] = "linear"
    source: ClassVar[str] = "Chen et al., 2023, arXiv 2306.15595"
    rope_type: ClassVar[str] = "linear"


@dataclass(frozen=True)
class YarnRope(RopeScaling):
    """YaRN: slow frequencies interpolated, fast ones kept, attention logits scaled.

    Peng et al., 2023, arXiv 2309.00071, sections 3.2 and 3.4, with its alpha 1 and beta 32 for
    Llama. Between the two the ramp is linear in the dimension, as in the authors' code and in
    transformers, where the paper's text has it linear in the rotations.
    """

    name: ClassVar[str] = "yarn"
    source: ClassVar[str] = "Peng et al., 2023, arXiv 2309.00071"
    rope_type: ClassVar[str] = "yarn"

    def scaling(self, window: int) -> dict[str, Any]:
        rest = {"beta_fast": 32.0, "beta_slow": 1.0, "original_max_position_embeddings": window}
        return {**super().scaling(window), **rest}


@dataclass(frozen=True)
class DynamicNTK(RopeScaling):
    """Dynamic NTK: the base grows with the length; inside the trained window the model as it is.

    For l tokens, a window of L and d rotated dimensions the base is multiplied by
    (factor * l / L - (factor - 1)) ** (d / (d - 2)); factor 1 is section 3.3 of arXiv 2309.00071,
    where the scale is l / L. As in transformers, keys in the cache keep the
    frequencies of the forward that read them. Unlike there, l is the row's own: neither what was
    read before nor the other rows of a batch change it.
    """

    name: ClassVar[str] = "dynamic_ntk"
    source: ClassVar[str] = "bloc97 and emozilla, 2023; arXiv 2309.00071, section 3.3"
    rope_type: ClassVar[str] = "dynamic"

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        from reattention_eval.attention.rope import is_rotary

        with super().applied(model):
            rotaries = [module for module in model.modules() if is_rotary(module)]
            own = [vars(rotary).get("forward") for rotary in rotaries]
            for rotary in rotaries:
                rotary.forward = _forward_by_row(rotary)
            try:
                yield
            finally:
                for rotary, forward in zip(rotaries, own, strict=True):
                    del rotary.forward
                    if forward is not None:  # a wrapper that moves results to one device
                        rotary.forward = forward


def _forward_by_row(rotary: Any) -> Any:
    """The module's forward for each row by itself, from the state of one that read nothing yet."""
    import torch

    def untouched(module: Any) -> Any:
        """A copy that changes its frequencies and leaves the module's as they are."""
        out = copy.copy(module)
        vars(out)["_buffers"] = dict(module._buffers)
        vars(out).pop("forward", None)
        return out

    start, device = untouched(rotary), rotary.inv_freq.device
    with torch.no_grad():  # forgets a longer prompt that the model may have read before
        start(torch.zeros(1, device=device), torch.zeros(1, 1, dtype=torch.long, device=device))

    def forward(x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        rows = [untouched(start)(x, row[None]) for row in position_ids]
        cos, sin = (torch.cat(tables) for tables in zip(*rows, strict=True))
        return cos, sin

    return forward
