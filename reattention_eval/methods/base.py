"""What every method says of itself; what it does is in its own file."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from reattention_eval.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reattention_eval.attention import BandedView, Selection, View
    from reattention_eval.cache import RowCache
    from reattention_eval.methods.prompt_reader import PromptReader

KINDS: dict[str, tuple[type, str]] = {
    "int": (int, "a whole number"),
    "bool": (bool, "True or False"),
    "str": (str, "a word in quotes"),
}
MOST = 2**31 - 1  # positions are counted in 32 bits


@dataclasses.dataclass(frozen=True)
class Method(ABC):
    """A long-context method: settings are its fields. Write a `ViewMethod` or a `NativeMethod`.

    Class attributes: `name`, what tables call it; `source`, where it was published.
    """

    name: ClassVar[str]
    source: ClassVar[str]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._check_kind(field.name, str(field.type))

    def _check_kind(self, name: str, kind: str) -> None:
        """A setting's type, as its field is annotated; True is not taken for 1."""
        value, expected = getattr(self, name), KINDS.get(kind)
        if expected is None:
            return
        right = type(value) is expected[0]
        self.require(right, f"{name} must be {expected[1]}, found {value!r:.80}")
        self.require(
            kind != "int" or abs(value) <= MOST,
            f"{name} must be at most {MOST}, found {value!r:.80}",
        )

    @property
    @abstractmethod
    def budget(self) -> int | None:
        """Keys a query attends to at most; None for the whole cache."""

    @property
    def whole_until(self) -> int | None:
        """Tokens of the largest cache that is attended as a whole, as full attention does; None
        for any."""
        return self.budget

    def selects(self, length: int) -> bool:
        """Whether the method does with a cache of `length` tokens what full attention does not."""
        return self.whole_until is not None and length > self.whole_until

    def must_select(self, prompt: int, new: int) -> bool:
        """Whether an answer of `new` tokens behind a prompt of so many took a step that selects."""
        return self.selects(prompt)

    @abstractmethod
    def reach(self, window: int) -> int | None:
        """Tokens it may read on a model trained to `window` tokens; None for any number."""

    def check_machine(self) -> None:  # noqa: B027  (most methods need nothing more)
        """Raise ConfigError where this machine lacks what the method needs; asked before a model
        is loaded."""

    @property
    def needs_document_end(self) -> bool:
        """Whether predictions depend on where a prompt's document ends and its question begins."""
        return False

    def check(self, context_length: int) -> None:  # noqa: B027  (most methods fit any model)
        """Raise ConfigError where the method cannot serve a model trained to so many tokens."""

    def settings(self) -> dict[str, Any]:
        """Every field that, with the method's name, defines its predictions."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if not field.metadata.get("same_predictions")
        }

    def require(self, condition: bool, problem: str) -> None:
        """Raise ConfigError with `problem` unless the condition holds."""
        if not condition:
            raise ConfigError(f"{self.name}: {problem}.")


@dataclasses.dataclass(frozen=True)
class ViewMethod(Method):
    """Chooses what each chunk attends to, and at which places RoPE counts it, layer by layer.

    Keys are kept un-rotated, all of them (`reattention_eval.attention.ViewPolicy`).
    """

    chunk_size: int = dataclasses.field(
        default=512, kw_only=True, metadata={"help": "prompt tokens answered together"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.chunk_size >= 1, f"chunk_size must be >= 1, found {self.chunk_size}")

    @property
    def renumbers(self) -> bool:
        """False: always the whole cache at its own positions, and `view` is never asked."""
        return True

    def reach(self, window: int) -> int | None:
        return None if self.renumbers else window

    @abstractmethod
    def view(self, row: RowCache, query: Tensor) -> View | Selection | BandedView:
        """What a chunk attends to; asked for a cache of more than `whole_until` tokens.

        Args:
            row: the un-rotated keys and values of one row in one layer, the chunk's included, and
                what the method keeps beside them (`row.state`).
            query: [H, T, D], the chunk's un-rotated queries: the last T of the row's tokens.
        """


@dataclasses.dataclass(frozen=True)
class NativeMethod(Method):
    """Runs on the model's own attention and on transformers' own cache.

    It may change the configuration before the weights are loaded, or the model while it is
    attached (patches, hooks that compress the cache), or both. What it keeps of a prompt belongs
    into the cache: `answer_nll` works on a copy of that.
    """

    def configure(self, config: Any) -> Any:
        """The configuration to load the model with, from the checkpoint's own (a copy of it, which
        may be changed in place). Given its own result, it must change nothing more."""
        return config

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[PromptReader | None]:
        """The model under the method inside the block; as it was behind it.

        Yields who says how prompts are read, where that is not all rows in one forward.
        """
        yield None
