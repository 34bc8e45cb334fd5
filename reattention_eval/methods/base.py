"""What every method says of itself; what it does is in its own file."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from reattention_eval.errors import ConfigError
from reattention_eval.sliding_layers import full_layers

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reattention_eval.attention import BandedView, PositionsView, ScoredView, Selection, View
    from reattention_eval.cache import RowCache
    from reattention_eval.methods.prompt_reader import PromptReader

KINDS: dict[str, tuple[type, str]] = {
    "int": (int, "a whole number"),
    "bool": (bool, "True or False"),
    "str": (str, "a word in quotes"),
}
MOST = 2**31 - 1  # positions are counted in 32 bits
BUDGET = "budget_tokens"

# families: methods of different ones answer different questions, and tables name them apart
FULL = "full attention"
BEYOND = "beyond the trained window"
SELECTION = "selection while decoding, all keys kept"
EVICTION = "eviction, inside the trained window"
UPPER_BOUND = "upper bound, no method"
FAMILIES = (FULL, BEYOND, SELECTION, EVICTION, UPPER_BOUND)


@dataclasses.dataclass(frozen=True)
class Method(ABC):
    """A long-context method: settings are its fields. Write a `ViewMethod` or a `NativeMethod`.

    Class attributes: `name`, what tables call it; `source`, where it was published; `family`, the
    kind of comparison it belongs to (docs/methods.md); `budget_meaning`, the keys that
    `budget_tokens` counts, "" for a method that attends to all and takes none; `needs`, beside this
    package, to run; `one_process`, whether it cannot run on a model that several processes share.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    family: ClassVar[str] = ""
    budget_meaning: ClassVar[str] = ""
    needs: ClassVar[str] = ""
    one_process: ClassVar[bool] = False

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
        """Keys a query attends to at most, wherever the method has its say (not in a prompt or in
        layers that it reads in full); None for the whole cache."""

    @classmethod
    def budget_settings(cls, tokens: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that make `budget` so many tokens, or just below, beside those `given`.

        Asked by `build_method` for `budget_tokens=...`; a method with a field of that name is not.

        Raises:
            ConfigError: the method has no budget, or the tokens are too few for what is given.
        """
        raise ConfigError(
            f"{cls.name} attends to all keys, so it has no budget_tokens; leave it out."
        )

    @property
    def whole_until(self) -> int | None:
        """Tokens of the largest cache that is attended as a whole, as full attention does; None
        for any."""
        return self.budget

    def selects(self, length: int) -> bool:
        """Whether the method does with a cache of `length` tokens what full attention does not."""
        return self.whole_until is not None and length > self.whole_until

    @property
    def reads_whole(self) -> bool:
        """True: prompts are read as full attention reads them; the method has its say behind."""
        return False

    def must_select(self, prompt: int, new: int) -> bool:
        """Whether an answer of `new` tokens behind a prompt of so many took a step that selects:
        the first token comes from the prompt's own logits."""
        if self.reads_whole:
            return new > 1 and self.selects(prompt + 1)
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

    def on(self, context_length: int) -> Method:
        """The method as it is on a model trained to so many tokens: settings that follow from the
        window are in their place. Most have none, and are themselves."""
        return self

    @property
    def keeps_of_queries(self) -> bool:
        """Whether it keeps something of a row's queries, which its keys cannot bring back."""
        return False

    def check(self, context_length: int) -> None:  # noqa: B027  (most methods fit any model)
        """Raise ConfigError where the method cannot serve a model trained to so many tokens."""

    def check_config(self, config: Any) -> None:  # noqa: B027  (as `check`)
        """Raise ConfigError where the method cannot serve a model of this configuration (of
        transformers); asked, as `check` is, before its weights are loaded."""

    def settings(self) -> dict[str, Any]:
        """Every field that, with the method's name, defines its predictions; but for those with
        `later` in their metadata that are as by default, since names of earlier runs lack them."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if not (field.metadata.get("later") and getattr(self, field.name) == field.default)
        }

    @classmethod
    def require(cls, condition: bool, problem: str) -> None:
        """Raise ConfigError with `problem` unless the condition holds."""
        if not condition:
            raise ConfigError(f"{cls.name}: {problem}.")

    @classmethod
    def given_or_default(cls, given: Mapping[str, Any], name: str, least: int) -> int:
        """A whole-number setting for `budget_settings`: as given, else the class's default."""
        default = next(field.default for field in dataclasses.fields(cls) if field.name == name)
        value = given.get(name, default)
        cls.require(
            type(value) is int and value >= least,
            f"{name} must be a whole number of at least {least}, found {value!r:.80}",
        )
        return int(value)


@dataclasses.dataclass(frozen=True)
class ViewMethod(Method):
    """Chooses what each chunk attends to, and at which places RoPE counts it, layer by layer.

    All keys are kept, un-rotated unless `renumbers` is False
    (`reattention_eval.attention.ViewPolicy`).
    """

    chunk_size: int = dataclasses.field(
        default=512, kw_only=True, metadata={"help": "prompt tokens answered together"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.chunk_size >= 1, f"chunk_size must be >= 1, found {self.chunk_size}")

    @property
    def renumbers(self) -> bool:
        """False: keys stay at their own positions, so they are kept rotated, and `view` is asked
        with them."""
        return True

    @property
    def fetched_keys(self) -> int | None:
        """See `reattention_eval.attention.ViewsTogether`; a cache brings so many values to the
        device for each view, or, for None, all."""
        return self.budget

    @property
    def first_tokens(self) -> int:
        """Of a row, that every view has; a cache keeps their values at hand."""
        return 0

    @property
    def whole_layers(self) -> int:
        """So many of the first layers always attend to the whole cache."""
        return 0

    def reach(self, window: int) -> int | None:
        return None if self.renumbers else window

    def check_config(self, config: Any) -> None:
        """As said.

        Raises:
            ConfigError: no layer of the model is left to choose for.
        """
        full = full_layers(config)
        self.require(
            full is None or len(full) > 0,
            f"every layer of this {config.model_type} model attends within a sliding window and "
            "cannot be given a view; use a checkpoint without such layers (Mistral: v0.2 or later)",
        )
        self.require(
            not full or full[-1] >= self.whole_layers,
            f"the first {self.whole_layers} layers attend to all keys, and of the "
            f"{config.num_hidden_layers} layers of this {config.model_type} model none behind them "
            "is left to choose for; lower their number, or use a deeper model",
        )

    @abstractmethod
    def view(
        self, row: RowCache, query: Tensor
    ) -> View | Selection | BandedView | PositionsView | ScoredView:
        """What a chunk attends to; asked for a cache of more than `whole_until` tokens.

        A method that does not renumber gives one of the last two.

        Args:
            row: the keys and values of one row in one layer, the chunk's included, and what the
                method keeps beside them (`row.state`); keys are un-rotated if it renumbers.
            query: [H, T, D], the chunk's queries, likewise: the last T of the row's tokens.
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
