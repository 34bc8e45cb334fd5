"""A press of kvpress on one model: what it keeps of each prompt, in tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from reattention_eval.cache_argument import given_cache
from reattention_eval.errors import ConfigError, ReAttentionError
from reattention_eval.methods.kvpress_library import check_class, masking
from reattention_eval.methods.prompt_reader import PromptReader

if TYPE_CHECKING:
    from torch import nn

    from reattention_eval.methods.eviction import Eviction

# on top of the tokens to keep: too little to keep one more, enough that no rounding keeps one less
_ABOVE = 1e-6


def compression_ratio(keep: int, tokens: int) -> float:
    """The share to drop so that kvpress keeps exactly `keep` of `tokens` keys."""
    return 1 - (keep + _ABOVE) / tokens if keep < tokens else 0.0


class PromptCompression(PromptReader):
    """Tells the press, prompt by prompt, the compression ratio that keeps `budget` keys a layer.

    Where the question is not to be seen, the document is read and compressed first, to the budget
    less the tokens behind it, and these are read behind what is left: so behind the prompt the
    cache holds the budget in both cases.

    Args:
        method: says the budget, and whether the question is in sight.
        press: of kvpress, for this model alone.
        model: that kvpress was written for.

    Raises:
        ConfigError: another model.
    """

    def __init__(self, method: Eviction, press: Any, model: Any) -> None:
        self._method, self._press, self._model = method, press, model
        self._name, self._budget = method.name, method.budget_tokens
        self._attention: list[nn.Module] = _attention_modules(model, method.name)
        self._compresses = False
        self._plan: tuple[int, int] | None = None  # tokens of the next first forward, keys to keep

    # -- the session's questions -------------------------------------------------------------------

    @property
    def compresses(self) -> bool:
        return self._compresses

    def forwards(
        self, held: Sequence[int], lengths: Sequence[int], document: int | None
    ) -> list[int]:
        if len(lengths) != 1:
            raise ConfigError(
                f"{self._name} compresses one prompt at a time (kvpress knows no padding), and "
                f"found a batch of {len(lengths)}; use batch_size=1."
            )
        tokens = lengths[0]
        if held[0]:
            if not self._compresses and held[0] + tokens > self._budget:
                raise ConfigError(
                    f"{self._name} compresses a prompt when it is first read, and that of this "
                    f"conversation was within the budget of {self._budget} tokens: this turn would "
                    f"take it to {held[0] + tokens}, uncompressed. Read the whole conversation as "
                    "one prompt."
                )
            return [tokens]
        for module in self._attention:  # the last prompt's
            vars(module).pop("masked_key_indices", None)
        self._compresses = tokens > self._budget
        if not self._compresses:
            self._plan = tokens, tokens
            return [tokens]
        if self._method.query_aware:
            self._plan = tokens, self._budget
            return [tokens]
        if document is None:
            raise ConfigError(
                f"{self._name} with query_aware=False compresses a document before it sees the "
                "question, and this prompt does not say where its document ends: give prefill "
                "document_tokens (rows of a dataset: their `question`), or set query_aware=True."
            )
        question, always = tokens - document, self._method.always_kept
        if question + always >= self._budget:
            chosen = f", of which {always} are kept whatever they are" if always else ""
            raise ConfigError(
                f"{self._name}: of the budget of {self._budget} tokens the {question} behind the "
                f"document leave nothing to be chosen for the document{chosen}; raise "
                "budget_tokens, or set query_aware=True."
            )
        self._plan = document, self._budget - question
        return [document, question] if question else [tokens]

    def masked(self) -> list[float]:
        return [_masked(module) for module in self._attention]

    def forward_bytes(self, tokens: int) -> int:
        heads, size = self._model.config.num_attention_heads, self._model.dtype.itemsize
        return self._method.score_bytes(tokens, heads, size)

    # -- on the model ------------------------------------------------------------------------------

    @contextmanager
    def on(self) -> Iterator[None]:
        """The press's hooks on the model, for the block; the model is then as it was."""
        with ExitStack() as stack:
            for module in self._attention:
                stack.callback(_restore, module, set(vars(module)), set(module._modules))
            stack.enter_context(masking(self._model.config._attn_implementation, self._attention))
            self._press.forward_hook = self._hook
            stack.callback(vars(self._press).pop, "forward_hook")
            try:
                stack.enter_context(self._press(self._model))
            except Exception as error:  # many fetch what they have learnt for a model
                if isinstance(error, ReAttentionError):
                    raise
                raise self._refused(error) from error
            yield

    def _hook(self, module: Any, inputs: Any, kwargs: dict[str, Any], output: Any) -> Any:
        rows, tokens = kwargs["hidden_states"].shape[:2]
        if given_cache(kwargs) is None:
            raise ConfigError(f"{self._name} drops keys from the cache; use use_cache=True.")
        if int(kwargs["cache_position"][-1]) + 1 == tokens:
            if module is self._attention[0]:
                self._begin(rows, tokens)
            if not self._press.compression_ratio:
                return output
        try:
            with _seeded(kwargs["hidden_states"].device):
                return type(self._press).forward_hook(self._press, module, inputs, kwargs, output)
        except (AssertionError, NotImplementedError, ValueError) as error:
            raise self._refused(error) from error

    def _begin(self, rows: int, tokens: int) -> None:
        """A prompt's first forward is in its first layer."""
        if self._plan is None or self._plan[0] != tokens or rows > 1:  # not the session's: a user's
            self.others += 1
            self.forwards([0] * rows, [tokens] * rows, None)
        assert self._plan is not None
        keep, self._plan = self._plan[1], None
        self._press.compression_ratio = compression_ratio(keep, tokens)

    def _refused(self, error: BaseException) -> ConfigError:
        return ConfigError(
            f"{self._name}: kvpress's {type(self._press).__name__} cannot do this "
            f"({type(error).__name__}: {str(error) or 'an assertion'})."
        )


def _attention_modules(model: Any, name: str) -> list[nn.Module]:
    check_class(type(model), type(model).__name__, name)
    return [layer.self_attn for layer in model.model.layers]


def _masked(module: nn.Module) -> float:
    indices = getattr(module, "masked_key_indices", None)
    heads = module.config.num_key_value_heads  # type: ignore[union-attr]
    return 0.0 if indices is None else len(indices[0]) / int(heads)  # type: ignore[arg-type]


def _restore(module: nn.Module, attributes: set[str], children: set[str]) -> None:
    """What was put on a module is gone: attributes, and modules below it."""
    for name in set(vars(module)) - attributes:
        delattr(module, name)
    for name in set(module._modules) - children:
        del module._modules[name]


@contextmanager
def _seeded(device: torch.device) -> Iterator[None]:
    """Presses that draw at random draw the same; nobody else's numbers change."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield
