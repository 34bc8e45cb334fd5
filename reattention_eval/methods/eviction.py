"""Eviction: a prompt is read in full, then all but the best of its keys are dropped, once.

The rules are kvpress's (NVIDIA, Apache-2.0, version 0.5.5); docs/methods.md says where they differ
from the papers'.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from reattention_eval.errors import ConfigError
from reattention_eval.methods.base import EVICTION, NativeMethod
from reattention_eval.methods.kvpress_library import check_family, check_kvpress, make_press
from reattention_eval.methods.memory import KeepsScores
from reattention_eval.sliding_layers import full_layers

if TYPE_CHECKING:
    from torch import nn

    from reattention_eval.methods.prompt_reader import PromptReader

_OBSERVED = "ObservedAttentionPress"


@dataclass(frozen=True)
class Eviction(NativeMethod, KeepsScores):
    """A prompt of more than `budget_tokens` is cut down to so many keys a layer.

    Reads inside the trained window: all of the prompt is attended to, at its own positions, and
    kept keys stay at theirs. One prompt at a time. New tokens are kept besides.

    Args:
        budget_tokens: keys kept behind the prompt, in the mean over layers.
        query_aware: keys are chosen with the question in sight, as in SnapKV's paper; False: the
            document is compressed before the question is read, as kvpress's own evaluation does
            by default, so that prompts must say where their document ends.
    """

    family: ClassVar[str] = EVICTION
    budget_meaning: ClassVar[str] = "keys kept behind the prompt, a mean over layers"
    needs: ClassVar[str] = "kvpress 0.5.5, transformers 4.57"
    one_process: ClassVar[bool] = True
    budget_tokens: int = 8192
    query_aware: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            self.budget_tokens >= 1, f"budget_tokens must be at least 1, found {self.budget_tokens}"
        )

    @abstractmethod
    def press_and_settings(self) -> tuple[str, dict[str, Any]]:
        """The class in kvpress, and what it is made with."""

    @property
    def observes_attention(self) -> bool:
        """Whether the press reads the attention that was computed, which has to be eager then."""
        return _OBSERVED in repr(self.press_and_settings())

    @property
    def always_kept(self) -> int:
        """Keys of a prompt that are kept whatever they are."""
        return 0

    def score_bytes(self, tokens: int, heads: int, itemsize: int) -> int:
        """Scores, their softmax in float32 and that in the model's dtype; and the mask."""
        each = heads * (2 * itemsize + 4) + itemsize + 1
        return tokens * tokens * each if self.observes_attention else 0

    @property
    def budget(self) -> int:
        return self.budget_tokens

    @property
    def reads_whole(self) -> bool:
        """A prompt is attended to in full, and only what comes behind it to a part."""
        return True

    def must_select(self, prompt: int, new: int) -> bool:
        return prompt > self.budget_tokens and new > 1  # the first is of the prompt's own logits

    @property
    def needs_document_end(self) -> bool:
        return not self.query_aware

    def reach(self, window: int) -> int:
        return window

    def check_machine(self) -> None:
        check_kvpress()
        make_press(*self.press_and_settings())

    def check_config(self, config: Any) -> None:
        """As said.

        Raises:
            ConfigError: a family that kvpress was not written for, or layers that attend within a
                sliding window.
        """
        check_family(config.model_type, self.name)
        full = full_layers(config)
        self.require(
            full is not None and len(full) == config.num_hidden_layers,
            f"this {config.model_type} model attends within a sliding window, whose cache drops "
            "keys by itself; use a model that attends in full",
        )

    def configure(self, config: Any) -> Any:
        """As it is. Raises as `check_config`."""
        self.check_config(config)
        return config

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[PromptReader]:
        from reattention_eval.methods.prompt_compression import PromptCompression

        press = make_press(*self.press_and_settings())
        with _eager(model) if self.observes_attention else nullcontext():
            compression = PromptCompression(self, press, model)
            with compression.on():
                yield compression


@contextmanager
def _eager(model: nn.Module) -> Iterator[None]:
    """Eager attention, which gives its weights away."""
    from reattention_eval.attention.model_patch import exchange_configs

    originals = exchange_configs(model, "eager")
    try:
        yield
    finally:
        for module, config in originals:
            module.config = config


@dataclass(frozen=True)
class _Named(Eviction):
    press: ClassVar[str]

    def press_and_settings(self) -> tuple[str, dict[str, Any]]:
        own = self.settings()
        return self.press, {key: own[key] for key in own if key not in _COMMON}


_COMMON = ("budget_tokens", "query_aware")


@dataclass(frozen=True)
class SnapKV(_Named):
    """Keeps what the prompt's last tokens attend to, pooled over neighbours, for each KV head.

    Li et al., 2024, arXiv 2404.14469.

    Args:
        window_size: last tokens, which are kept and whose attention is observed.
        kernel_size: neighbours over which the attention is averaged.
    """

    name: ClassVar[str] = "snapkv"
    source: ClassVar[str] = "Li et al., 2024, arXiv 2404.14469"
    press: ClassVar[str] = "SnapKVPress"
    window_size: int = 64
    kernel_size: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            1 <= self.window_size < self.budget_tokens,
            f"window_size {self.window_size} is kept whole, so budget_tokens must be larger, found "
            f"{self.budget_tokens}",
        )
        odd = self.kernel_size >= 1 and self.kernel_size % 2 == 1
        self.require(odd, f"kernel_size must be odd, found {self.kernel_size}")

    @property
    def always_kept(self) -> int:
        return self.window_size


@dataclass(frozen=True)
class PyramidKV(SnapKV):
    """SnapKV with more keys in the first layers and fewer in the last.

    Cai et al., 2024, arXiv 2406.02069. Where the budget leaves the last layer less than
    window_size, all layers keep equally many.

    Args:
        beta: the last layer keeps 1 / beta of the mean, and the first one what that leaves.
    """

    name: ClassVar[str] = "pyramidkv"
    source: ClassVar[str] = "Cai et al., 2024, arXiv 2406.02069"
    press: ClassVar[str] = "PyramidKVPress"
    beta: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.beta >= 1, f"beta must be at least 1, found {self.beta}")


@dataclass(frozen=True)
class TOVA(_Named):
    """Keeps what the prompt's last token attends to, in the mean over all heads.

    Oren et al., 2024, arXiv 2401.06104; once behind the prompt, not at every token.
    """

    name: ClassVar[str] = "tova"
    source: ClassVar[str] = "Oren et al., 2024, arXiv 2401.06104"
    press: ClassVar[str] = "TOVAPress"


@dataclass(frozen=True)
class ExpectedAttention(_Named):
    """Keeps what queries to come are expected to attend to, from the mean and covariance of those
    seen.

    Devoto et al., 2025, arXiv 2510.00636.

    Args:
        n_future_positions: over whose rotations queries are averaged.
        n_sink: first tokens, always kept.
        use_covariance: count the queries' covariance, not their mean alone.
        use_vnorm: weigh by the norm of the values.
        epsilon: added to the expected attention before that.
    """

    name: ClassVar[str] = "expected_attention"
    source: ClassVar[str] = "Devoto et al., 2025, arXiv 2510.00636"
    press: ClassVar[str] = "ExpectedAttentionPress"
    n_future_positions: int = 512
    n_sink: int = 4
    use_covariance: bool = True
    use_vnorm: bool = True
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            self.n_future_positions >= 1,
            f"n_future_positions must be at least 1, found {self.n_future_positions}",
        )
        self.require(
            0 <= self.n_sink < self.budget_tokens,
            f"n_sink counts first tokens that are kept, from 0 and fewer than budget_tokens "
            f"{self.budget_tokens}, found {self.n_sink}",
        )
        right = type(self.epsilon) in (int, float) and 0 <= self.epsilon < math.inf
        self.require(right, f"epsilon must be a number from 0 on, found {self.epsilon!r:.80}")
        object.__setattr__(self, "epsilon", float(self.epsilon))  # 0 and 0.0 are one setting

    @property
    def always_kept(self) -> int:
        return self.n_sink


@dataclass(frozen=True)
class KeyDiff(_Named):
    """Keeps the keys that are least like the mean of all keys' directions.

    Park et al., 2025, arXiv 2504.15364; of the whole prompt at once, not block by block.
    """

    name: ClassVar[str] = "keydiff"
    source: ClassVar[str] = "Park et al., 2025, arXiv 2504.15364"
    press: ClassVar[str] = "KeyDiffPress"


@dataclass(frozen=True)
class H2O(_Named):
    """Keeps the keys with most attention from all of the prompt's tokens (heavy hitters).

    After Zhang et al., 2023, arXiv 2306.14048, as kvpress's ObservedAttentionPress has it: each
    key's attention is averaged over the queries that can see it, and no last tokens are kept as
    such. It reads with eager attention, whose weights take tokens x tokens x heads: a prompt for
    which they do not fit into memory is refused.
    """

    name: ClassVar[str] = "h2o"
    source: ClassVar[str] = "Zhang et al., 2023, arXiv 2306.14048"
    press: ClassVar[str] = _OBSERVED


@dataclass(frozen=True)
class KVPress(Eviction):
    """Any press of kvpress that compresses a prompt read in one forward.

    Args:
        press: its class, as "KnormPress"; an unknown one is answered with those that exist.
        press_settings: what it is made with; a press inside it by its name, or as a dict with its
            `type`: press="BlockPress", press_settings=dict(press="KeyDiffPress", block_size=128).
    """

    name: ClassVar[str] = "kvpress"
    source: ClassVar[str] = "github.com/NVIDIA/kvpress; arXiv 2510.00636"
    press: str = "KnormPress"
    press_settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.press_settings, Mapping):
            raise ConfigError(
                f"{self.name}: press_settings must be a dict, found {self.press_settings!r:.80}."
            )

    def press_and_settings(self) -> tuple[str, dict[str, Any]]:
        return self.press, dict(self.press_settings)
