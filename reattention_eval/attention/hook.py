"""One hook for every RoPE decoder of transformers: no model is copied.

An identity rotary module leaves queries and keys un-rotated (`model_patch`), an own cache layer
stores the keys so (`transformers_cache`), and a registered attention function asks the policy for
the view, rotates it and attends (`layer_answers`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from transformers import Cache

from reattention_eval.attention.counts import Counts
from reattention_eval.attention.fixed_weights import fixed_weights
from reattention_eval.attention.layer_answers import LayerAnswers
from reattention_eval.attention.layer_caches import layer_caches
from reattention_eval.attention.model_parts import AttentionLayer, find_model_parts
from reattention_eval.attention.model_patch import ModelPatch
from reattention_eval.attention.one_thread import OneThread
from reattention_eval.attention.policy import ViewPolicy
from reattention_eval.attention.refusals import check_autocast, check_dropouts, dropouts
from reattention_eval.attention.repeated_steps import RepeatedSteps
from reattention_eval.attention.room import Room
from reattention_eval.attention.row_lengths import RowLengths, RowStep
from reattention_eval.attention.transformers_cache import HookCache, plan_forward
from reattention_eval.attention.user_forward import UserForwards, named
from reattention_eval.cache import DEVICE, Transferred
from reattention_eval.cache_argument import with_cache
from reattention_eval.errors import ConfigError, SelectionError
from reattention_eval.parallel import ranks_of

NAME = "reattention_view"  # must not contain the names transformers treats specially
_LAYERS: WeakKeyDictionary[nn.Module, tuple[Hook, int]] = WeakKeyDictionary()


class Hook:
    """Installs a view method on a model, and takes it off again.

    Layers that attend within a sliding window keep to it, at their own positions; the policy
    answers the others.

    Counters, of the layers that the policy answers: those of `LayerAnswers`, and `expected`:
    layer-steps that had to select, known from the lengths alone.
    """

    def __init__(self, model: nn.Module, policy: ViewPolicy, tier: str = DEVICE) -> None:
        self.model = model
        self._devices = {parameter.device for parameter in model.parameters()}
        check_autocast(self._devices)
        self._dropouts = dropouts(model)
        self._parts = find_model_parts(model)
        layers = self._parts.layers
        ranks = ranks_of(model)
        self.layers, self.tier = layer_caches(layers, policy, tier, ranks)
        self.room = Room(self.layers, self.tier, ranks)
        self.cache = HookCache(self.layers)
        self._ropes = list(dict.fromkeys(layer.rope for layer in layers))
        self._choosing = _choosing_layers(layers, policy)
        self.rows = RowLengths(lambda: self.policy)
        self.answers = LayerAnswers(policy, layers, self.layers, self.rows)
        answered = sum(layer.window is None for layer in layers), self._choosing
        self.repeats = RepeatedSteps(
            self.layers, self.tier, self.answers, self.rows, self._ropes, self._devices, answered
        )
        self.user = UserForwards()
        self.handed_in: WeakSet[Cache] = WeakSet()  # that users began prompts with
        self.one_thread = OneThread()
        self._driven = self._around = self._inside = self._alone = False
        self._handles: list[Any] = []
        self.reset_counters()

    @property
    def policy(self) -> ViewPolicy:
        return self.answers.policy

    def reset_counters(self) -> None:
        self._carried = self.repeats.expected = 0
        self._reading = Counts().plus(Counts())  # sums, no longer by place
        self.answers.reset_counters()
        self.user.reset_counters()
        if self.tier is not None:
            self.tier.reset_counts()

    @property
    def expected(self) -> int:
        return self._carried + self.repeats.expected

    @property
    def layer_steps(self) -> int:
        return self.answers.layer_steps

    @property
    def selected(self) -> int:
        return self.answers.selected

    def counts(self) -> Counts:
        """The counters as they are now, without waiting for the device."""
        return self.answers.counts()

    def transferred(self) -> Transferred:
        """Between devices and host; waits for the devices."""
        return Transferred(0, 0, 0, 0) if self.tier is None else self.tier.transferred()

    def decode_counts(self) -> Counts:
        """Those of forwards that carried no token of a prompt or turn."""
        return self.counts().plus(Counts()).minus(self._reading)

    # -- on and off ------------------------------------------------------------------------------

    def install(self) -> None:
        owner, parts = self._parts.owner, self._parts
        forwards = [*parts.unrotated, *parts.norms, fixed_weights(self.model)]
        self._patch = ModelPatch(
            self.model, parts.exchanges, NAME, _attention, forwards, parts.direct
        )
        for i, layer in enumerate(parts.layers):
            _LAYERS[layer.module] = self, i
        self._handles = [
            self.model.register_forward_pre_hook(self._before_model, with_kwargs=True),
            owner.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            owner.register_forward_hook(self._after_forward),
            owner.register_forward_hook(self._leave_forward, always_call=True),
            self.model.register_forward_hook(self._after_model),
            self.model.register_forward_hook(self._leave_model, always_call=True),
        ]

    def remove(self) -> None:
        """Leave the model as it was before `install`."""
        for handle in self._handles:
            handle.remove()
        self.user.leave()
        self._patch.undo()
        for layer in self._parts.layers:
            _LAYERS.pop(layer.module, None)

    def give_back(self) -> None:
        """All storage; what was counted stays."""
        for cache in self.layers:
            cache.clear()
        if self.tier is not None:
            self.tier.memory.give_back()

    # -- a forward -------------------------------------------------------------------------------

    @contextmanager
    def drive(self, plan: Sequence[RowStep]) -> Iterator[None]:
        """The forward of the model inside carries these rows and tokens (the engine's way)."""
        self.rows.plan = plan
        self._driven = True
        try:
            yield
        finally:
            self._driven = False  # where it never came to its decoder, the next is the user's

    def start(self, rows: int, capacity: int) -> None:
        """Empty the cache and make room.

        Raises:
            ConfigError: too little host memory; nothing has been taken of it.
            DeviceMemoryError: too little memory on a device; the same.
        """
        self.room.ask(rows, capacity)
        self.cache = HookCache(self.layers)  # what a user still holds is of an earlier prompt
        self.room.make(rows, capacity)
        self.rows.start(rows)

    @property
    def whole(self) -> bool:
        """Whether all that the forwards carried is there."""
        held = all(layer.lengths == self.rows.tokens for layer in self.layers)
        return held and not any(layer.lost for layer in self.layers)

    def expect(self, prompts: Sequence[int]) -> None:
        """Say how long each row's prompt is, for RoPE scaling that depends on it."""
        self.rows.expect(prompts)

    def same_rope(self, one: int, other: int) -> bool:
        """Whether prompts of these lengths have the same RoPE where they have the same tokens."""
        whole = self.rows.whole(one), self.rows.whole(other)
        for layer in self._parts.layers:  # sliding ones are at their own positions
            first, second = whole if layer.window is None else (one, other)
            if layer.rope.regime(first) != layer.rope.regime(second):
                return False
        return True

    def take_back(self, lengths: Sequence[int], counts: Counts) -> None:
        """A forward has failed on its way: hold and count what was before it."""
        self.rewind(lengths)
        self.answers.set_counts(counts)

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget what lies behind the first lengths[r] tokens of each row."""
        self.cache = HookCache(self.layers)  # what a user still holds was of more
        self.rows.tokens = list(lengths)
        for layer in self.layers:
            layer.rewind(lengths)

    def layer_kinds(self) -> list[tuple[int | None, int]]:
        """Each layer's sliding window, and which of `rope_samples` is its own."""
        return [(layer.window, self._ropes.index(layer.rope)) for layer in self._parts.layers]

    def rope_samples(self) -> list[list[float]]:
        """See `ViewRope.samples`."""
        return [rope.samples() for rope in self._ropes]

    def _before_model(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if not self._driven:
            self._begin(module, args, kwargs)
        self._around, self._inside = not self._driven, False

    def _after_model(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._around:
            self._end(output)

    def _leave_model(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._around:
            self._around = False
            self._leave()

    def _begin(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """A forward of the user's own: of the model, or of its decoder alone."""
        self.one_thread.begin_forward()
        try:
            self.user.begin(module, args, kwargs)
        except ConfigError:
            self.one_thread.end_forward()
            raise

    def _end(self, output: Any) -> None:
        self.user.end(output)
        self.cache.unfinished = False

    def _leave(self) -> None:
        if self.one_thread.end_forward():
            self.user.leave()

    def _before_forward(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        driven, self._driven = self._driven, False
        # a model enters its decoder once; one that Ctrl-C ended has left neither
        self._around, self._inside = self._around and not self._inside, True
        self._alone = False
        check_autocast(self._devices)
        check_dropouts(self._dropouts, type(self.model).__name__)
        kwargs = named(module, args, kwargs)
        if not driven:
            self.one_thread.begin_forward()  # another thread's may be on its way
            if not self._around:
                self._begin(module, args, kwargs)
                self._alone = True
            self.rows.plan_prompts([RowStep(*step) for step in plan_forward(self, kwargs)])
            self.room.make_some(self.rows.longest)
            self.cache.unfinished = True
        self._before = self.counts() if self.rows.reads else None
        kwargs = with_cache(module, kwargs, self.cache)
        return (), {**kwargs, "attention_mask": None, "use_cache": True}

    def _after_forward(self, module: nn.Module, args: Any, output: Any) -> None:
        """Count what had to be selected from the tokens carried, whatever the layers did."""
        if self.layers[0].repeated is not None:
            return  # counted when the step is repeated
        self._carried += self._choosing * self.rows.carry()
        if self._before is not None:
            self._reading = self._reading.plus(self.counts().minus(self._before))
        missed = [i for i, layer in enumerate(self.layers) if layer.lengths != self.rows.tokens]
        if missed:
            raise SelectionError(
                f"{len(missed)} of {len(self.layers)} layers did not pass through the attached "
                "method: this model or this version of transformers does not use the registered "
                "attention. Please report the model and the transformers version."
            )
        if self._alone:
            self._end(output)

    def _leave_forward(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._alone:
            self._alone = False
            self._leave()

    def check_selected(self) -> None:
        """Raises SelectionError when fewer layer-steps selected than the lengths demand."""
        if self.selected < self.expected:
            raise SelectionError(
                f"{self.expected} layer-steps had to select keys and {self.selected} did: what "
                "was computed is not the method asked for. Detach, attach again, and report the "
                "versions of transformers and torch if it persists."
            )


def _choosing_layers(layers: Sequence[AttentionLayer], policy: ViewPolicy) -> int:
    """How many layers the policy chooses for.

    Raises:
        ConfigError: none, since it leaves all of the model's layers whole.
    """
    answered = [i for i, layer in enumerate(layers) if layer.window is None]
    choosing = sum(i >= policy.whole_layers for i in answered)
    if answered and not choosing:
        raise ConfigError(
            f"{policy.name} attends in full in the first {policy.whole_layers} layers, which are "
            f"all that this model of {len(layers)} layers lets it choose for; lower their number."
        )
    return choosing


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The function transformers calls by name for every attention layer."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.no_grad():
        hook, layer = _LAYERS[module]
        return hook.answers(layer, query, key, value, scale), None
