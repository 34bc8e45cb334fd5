"""One hook for every RoPE decoder of transformers: no model is copied.

An identity rotary module leaves queries and keys un-rotated, an own cache layer stores the keys
so, and a registered attention function asks the policy for the view, rotates it and attends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from reattention_eval.attention.attend import FLASH_DTYPES, ViewAttention
from reattention_eval.attention.counts import Counts
from reattention_eval.attention.fused_view_attention import FusedViewAttention
from reattention_eval.attention.model_parts import find_model_parts
from reattention_eval.attention.model_patch import ModelPatch
from reattention_eval.attention.policy import Selection, View, ViewPolicy
from reattention_eval.attention.rope import ViewRope
from reattention_eval.attention.sliding_attention import attend_sliding
from reattention_eval.attention.transformers_cache import HookCache, plan_forward
from reattention_eval.attention.user_forward import UserForwards, named
from reattention_eval.cache import LayerCache, RepeatedStep, RowCache
from reattention_eval.errors import ConfigError, SelectionError
from reattention_eval.parallel import ranks_of

NAME = "reattention_view"  # must not contain the names transformers treats specially
_LAYERS: WeakKeyDictionary[nn.Module, tuple[Hook, int]] = WeakKeyDictionary()


@dataclass(frozen=True)
class RowStep:
    """Entry b of a forward: its tokens start..start+count-1 are new tokens of cache row `row`."""

    row: int
    start: int
    count: int


class Hook:
    """Installs a view method on a model, and takes it off again.

    Layers that attend within a sliding window keep to it, at their own positions; the policy
    answers the others.

    Counters, of the layers that the policy answers: `layer_steps` (layer x chunk x row answered),
    `selected` (those answered by a part of the cache), `expected` (those that had to be, known
    from the lengths alone), `view_tokens`.
    """

    def __init__(self, model: nn.Module, policy: ViewPolicy) -> None:
        self.model = model
        self.policy = policy
        self._parts = find_model_parts(model)
        ranks = ranks_of(model)
        join = ranks.join if ranks else None
        self.layers = [LayerCache(i, join) for i in range(len(self._parts.layers))]
        self.cache = HookCache(self.layers)
        self._ropes = [part.rope for part in self._parts.layers]
        self._kinds = list(dict.fromkeys(self._ropes))
        self._answered = sum(part.window is None for part in self._parts.layers)
        self._attend = ViewAttention()
        self._device = FusedViewAttention()
        self.user = UserForwards()
        self._plan: Sequence[RowStep] = ()
        self._driven = False
        self._handles: list[Any] = []
        self._tokens: list[int] = []  # per row, by what the forwards carried
        self._prompts: list[int] = []  # per row, the length its prompt will have
        self.reset_counters()

    def reset_counters(self) -> None:
        self.layer_steps = self.selected = self.expected = self._view_tokens = 0
        self._device.reset_counter()
        self.user.reset_counters()

    @property
    def view_tokens(self) -> int:
        """Keys attended, over all layer-steps; waits for the device."""
        return self._view_tokens + self._device.view_tokens

    def counts(self) -> Counts:
        """The counters as they are now, without waiting for the device."""
        host, on_devices = self._device.counts()
        return Counts(self.layer_steps, self.selected, self._view_tokens + host, on_devices)

    # -- on and off ------------------------------------------------------------------------------

    def install(self) -> None:
        owner, parts = self._parts.owner, self._parts
        self._patch = ModelPatch(self.model, parts.exchanges, NAME, _attention, parts.direct)
        for i, layer in enumerate(parts.layers):
            _LAYERS[layer.module] = self, i
        self._handles = [
            owner.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            owner.register_forward_hook(self._after_forward),
            self.model.register_forward_pre_hook(self._before_model, with_kwargs=True),
            self.model.register_forward_hook(self._after_model),
        ]

    def remove(self) -> None:
        """Leave the model as it was before `install`."""
        for handle in self._handles:
            handle.remove()
        self._patch.undo()
        for layer in self._parts.layers:
            _LAYERS.pop(layer.module, None)

    # -- a forward -------------------------------------------------------------------------------

    def drive(self, plan: Sequence[RowStep]) -> None:
        """Say which rows and tokens the next forward of the model carries (the engine's way)."""
        self._plan = plan
        self._driven = True

    def start(self, rows: int, capacity: int) -> None:
        """Empty the cache and make room."""
        self._tokens, self._prompts = [0] * rows, [0] * rows
        for layer in self.layers:
            layer.reserve(rows, capacity)

    def expect(self, prompts: Sequence[int]) -> None:
        """Say how long each row's prompt is, for RoPE scaling that depends on it."""
        self._prompts = list(prompts)

    def same_rope(self, one: int, other: int) -> bool:
        """Whether prompts of these lengths have the same RoPE where they have the same tokens."""
        one, other = self._whole(one), self._whole(other)
        return all(rope.regime(one) == rope.regime(other) for rope in self._kinds)

    def _whole(self, prompt: int) -> int:
        """The prompt's length if all of it is one view, else 0."""
        return 0 if self.policy.selects(prompt) else prompt

    def reserve_more(self, capacity: int) -> None:
        """Make room for `capacity` tokens a row, keeping what is stored."""
        for layer in self.layers:
            layer.reserve_more(capacity)

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget what lies behind the first lengths[r] tokens of each row."""
        self._tokens = list(lengths)
        for layer in self.layers:
            layer.rewind(lengths)

    @property
    def repeatable(self) -> bool:
        """Whether a decode step is the same work at every length: on one device, in a dtype that
        kernels attend in, all layers answered by the policy."""
        kinds = {(parameter.device, parameter.dtype) for parameter in self.model.parameters()}
        if len(kinds) != 1 or kinds.pop()[1] not in FLASH_DTYPES:
            return False
        return self._answered == len(self.layers)

    def frequencies(self, length: int) -> tuple[int, ...]:
        """What tells apart the RoPE frequencies that row 0 has at its positions as it grows to
        `length` tokens; a selection counts its own positions, and they stay the same."""
        if self.policy.renumbers and self.policy.selects(length):
            return ()
        length = max(length, self._whole(self._prompts[0]))
        return tuple(rope.regime(length) for rope in self._kinds)

    @contextmanager
    def repeating(self, step: RepeatedStep) -> Iterator[None]:
        """Forwards inside put one token of row 0 where the device says, and count nothing."""
        before = self.layer_steps, self.selected, self._view_tokens
        for layer in self.layers:
            layer.repeated = step
        try:
            with self._device.uncounted():
                yield
        finally:
            for layer in self.layers:
                layer.repeated = None
            self.layer_steps, self.selected, self._view_tokens = before

    def prepare_repeat(self) -> None:
        """Call before a repeated step of row 0."""
        for layer in self.layers:
            layer.prepare_repeat(0)

    def count_repeat(self, step: RepeatedStep, fixed_view: int) -> None:
        """The step has added a token to row 0; it selects in every layer or in none.

        fixed_view: keys it attended besides those counted on the device.
        """
        self._tokens[0] += 1
        for layer in self.layers:
            layer.advance(0, step)
        layers = len(self.layers)
        selecting = layers * self.policy.selects(self._tokens[0])
        self.layer_steps += layers
        self.selected += selecting
        self.expected += selecting
        self._device.count_fixed(layers * fixed_view)

    def tables(self) -> list[Tensor]:
        """Tables in use: a captured graph reads them, so it must keep them alive."""
        rotations = [table for rope in self._kinds for table in rope.held_tables()]
        return [*rotations, *self._device.held_places()]

    def _before_model(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self._users = not self._driven
        if self._users:
            self.user.begin(module, args, kwargs)

    def _after_model(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._users:
            self.user.end(output)

    def _before_forward(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        kwargs = named(module, args, kwargs)
        if not self._driven:
            self._plan = [RowStep(*step) for step in plan_forward(self, kwargs)]
            for step in self._plan:
                if self._tokens[step.row] == 0:
                    self._prompts[step.row] = step.count
        self._driven = False
        kwargs = {**kwargs, "past_key_values": self.cache, "attention_mask": None}
        return (), {**kwargs, "use_cache": True}

    def _after_forward(self, module: nn.Module, args: Any, output: Any) -> None:
        """Count what had to be selected from the tokens carried, whatever the layers did."""
        if self.layers[0].repeated is not None:
            return  # counted when the step is repeated
        for step in self._plan:
            length = self._tokens[step.row]
            self._tokens[step.row] = length + step.count
            for done in range(0, step.count, self.policy.chunk_size):
                stop = length + min(done + self.policy.chunk_size, step.count)
                self.expected += self._answered * self.policy.selects(stop)
        missed = [i for i, layer in enumerate(self.layers) if layer.lengths != self._tokens]
        if missed:
            raise SelectionError(
                f"{len(missed)} of {len(self.layers)} layers did not pass through the attached "
                "method: this model or this version of transformers does not use the registered "
                "attention. Please report the model and the transformers version."
            )

    def attention(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> Tensor:
        """query [B, H, T, D], key and value [B, Hkv, T, D], un-rotated -> [B, T, H, D].

        A row's tokens are answered chunk by chunk, so a forward of any length gives what the
        same tokens give in chunks. Rows whose chunks end at the same length are one call where
        the view is the whole cache.
        """
        b, h, t, d = query.shape
        out = query.new_zeros(b, t, h, d)
        for first, last in self._alike(layer):
            step = self._plan[first]
            stop = step.start + step.count
            for start in range(step.start, stop, self.policy.chunk_size):
                part = slice(start, min(start + self.policy.chunk_size, stop))
                width = last - first if self._whole_view(layer, step.row, part) else 1
                for entry in range(first, last, width):
                    some = slice(entry, entry + width)
                    q, k, v = (x[some, :, part] for x in (query, key, value))
                    answer = self._chunk(layer, self._plan[entry].row, q, k, v, scale)
                    out[some, part] = answer.view(width, h, -1, d).transpose(1, 2)
        return out

    def _alike(self, layer: int) -> Iterator[tuple[int, int]]:
        """Runs of entries [first, last): consecutive rows that carry and hold alike."""
        lengths, first = self.layers[layer].lengths, 0
        for entry in range(1, len(self._plan) + 1):
            if entry < len(self._plan):
                one, other = self._plan[first], self._plan[entry]
                row = one.row + entry - first
                alike = other == RowStep(row, one.start, one.count)
                if alike and lengths[one.row] == lengths[row] and self._same_prompt(one.row, row):
                    continue
            yield first, entry
            first = entry

    def _same_prompt(self, one: int, other: int) -> bool:
        return self._prompts[one] == self._prompts[other]

    def _whole_view(self, layer: int, row: int, part: slice) -> bool:
        """Whether the chunk's view is known to be all (or the window) of what the row holds."""
        if self._parts.layers[layer].window is not None or not self.policy.renumbers:
            return True
        length = self.layers[layer].lengths[row] + part.stop - part.start
        return not self.policy.selects(length)

    def _chunk(
        self, layer: int, row: int, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> Tensor:
        """query [R, H, T, D] of R rows that hold alike, `row` the first -> [R*H, T, D].

        More than one only where `_whole_view`: the rows are then so many more KV heads.
        """
        cache, rope, prompt = self.layers[layer], self._ropes[layer], self._prompts[row]
        rows, window = query.shape[0], self._parts.layers[layer].window
        query, key, value = (x.flatten(0, 1) for x in (query, key, value))
        if window is not None:
            query, key = rope.rotate_at(query, key, cache.lengths[row], prompt)
            held = cache.append(row, key, value, rows)
            return attend_sliding(query, held.key, held.value, scale, window)
        self.layer_steps += rows
        whole = self._whole(prompt)
        if not self.policy.renumbers:
            step = cache.repeated
            if step is None:
                query, key = rope.rotate_at(query, key, cache.lengths[row], whole)
            else:
                query, key = rope.rotate_slot(query, key, step.slot, step.capacity, whole)
            held = cache.append(row, key, value, rows)
            self._view_tokens += rows * held.capacity
            return self._attend(query, held.key, held.value, scale, held.device_length)
        held = cache.append(row, key, value, rows)
        if self.policy.selects(held.capacity):
            answer = self._own_view(rope, held, query, scale, whole)
            if answer is not None:
                self.selected += 1
                return answer
        answer = self._device.attend_all(rope, held, query, scale, whole)
        if answer is not None:
            self._view_tokens += rows * held.capacity
            return answer
        key, value = held.key[:, : held.length], held.value[:, : held.length]
        self._view_tokens += rows * key.shape[1]
        query, key = rope.rotate_view(query, key, whole)
        return self._attend(query, key, value, scale)

    def _own_view(
        self, rope: ViewRope, row: RowCache, query: Tensor, scale: float, whole: int
    ) -> Tensor | None:
        """query [H, T, D] -> [H, T, D]; None where the policy has no view after all."""
        view = self.policy.view(row, query)
        if view is None:
            return None
        if isinstance(view, Selection):
            answer = self._device.attend(rope, view, row, query, scale)
            if answer is not None:
                return answer
            view = View(view.positions(row.length))
        elif isinstance(view, View):
            view.check(self.policy.name, row, query)
        else:
            raise ConfigError(
                f"{self.policy.name}: view must give a View or a Selection, found "
                f"{type(view).__name__}."
            )
        key, value = row.gather(view.positions)
        self._view_tokens += key.shape[1]
        if view.places is None or view.query_places is None or view.extent is None:
            query, key = rope.rotate_view(query, key, whole)
        else:
            query, key = rope.rotate_places(
                query, key, view.places, view.query_places, view.extent, whole
            )
        return self._attend(query, key, value, scale)

    def check_selected(self) -> None:
        """Raises SelectionError when fewer layer-steps selected than the lengths demand."""
        if self.selected < self.expected:
            raise SelectionError(
                f"{self.expected} layer-steps had to select keys and {self.selected} did: what "
                "was computed is not the method asked for. Detach, attach again, and report the "
                "versions of transformers and torch if it persists."
            )


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
        return hook.attention(layer, query, key, value, scale), None
