"""Random sequences of session operations, each compared with a fresh session that reads the same
tokens: row by row, alone, chunk by chunk, with all keys and values on the device."""

from __future__ import annotations

import itertools
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from repeats import repeat_without_gpu
from small_tiers import make_tiers_small
from storm_case import VOCABULARY, Case, Row
from storm_draws import a_method, model_of

from reattention_eval import attach
from reattention_eval.attention import room
from reattention_eval.cache import capacity, host_keys, last_fetched, value_window, values
from reattention_eval.engine.forward_size import ForwardSize
from reattention_eval.errors import ConfigError, ReAttentionError


class Boom(Exception):
    pass


class Storm(Case):
    """Operations in the with block, and what they leave."""

    def run(self, operations: int) -> Counter[str]:
        make_tiers_small(self.patch)
        fits = random.Random(self.draw.random())
        self.patch.setattr(capacity, "_fits", lambda *_: fits.random() < 0.4)
        self.patch.setattr(room, "GROWTH_TOKENS", fits.choice((0, 3, 20, 4096)))
        chunk = getattr(self.method, "chunk_size", 1)
        plain = ForwardSize.choose
        with torch.no_grad():
            before = self.model(torch.arange(3, 40)[None]).logits
        for _ in range(self.draw.choice((1, 1, 2))):
            self.choose_ways()
            with self.patch.context() as patch:
                patch.setattr(
                    ForwardSize, "choose",
                    lambda own, rows: next(self.sizes) * chunk if own._model is self.model
                    else plain(own, rows),
                )  # fmt: skip
                if self.repeats:
                    repeat_without_gpu(patch)
                with (
                    attach(self.alone, self.method) as self.truth,
                    attach(self.model, self.method, cache=self.cache) as self.session,
                ):
                    if self.hooked:
                        self.truth._repeats._able = False
                    for _ in range(operations):
                        self.operation()
            self.rows, self.unread, self.perhaps = None, False, False
        with torch.no_grad():
            assert torch.equal(self.model(torch.arange(3, 40)[None]).logits, before)
        return self.done

    def operation(self) -> None:
        names = ["prefill", "generate", "users", "model_generate", "refused", "reset"]
        names += ["prefill", "failed", "other", "ended", "load"]
        if self.rows is not None:
            names += ["extend", "extend", "decode", "decode", "go_on", "go_on", "failed"]
            names += ["nll", "save"] if len(self.rows) == 1 else []
        name = self.draw.choice(names)
        try:
            getattr(self, name)()
        except ConfigError as error:
            if not self.perhaps or "Call prefill first" not in str(error):
                raise
            self.rows, self.unread, self.perhaps, name = None, False, False, "asked to prefill"
        self.done[name] += 1

    def holds(self, rows: list[Row], unread: bool = False) -> None:
        self.rows, self.unread, self.perhaps = rows, unread, False
        lengths = [sum(_tokens(step) for step in row) - unread for row in rows]
        assert self.session.lengths == lengths

    def prefill(self) -> None:
        rows = self.batch()
        ids, mask = self.padded(rows)
        room = self.draw.choice((0, 0, 5, 200))
        reuse = self.draw.random() < 0.5
        read = self.session.prefill
        found = self.asked(read, ids, mask, reuse_prefix=reuse, max_new_tokens=room)
        self.holds([[("read", row)] for row in rows])
        self.check(found, self.rows)
        self.check_views()

    def ended(self) -> None:
        if not self.hooked:
            return
        ids, least = self.prompt(), self.draw.randint(1, 60)
        reuse = self.draw.random() < 0.5
        found = self.session.prefill(
            torch.tensor([ids]), reuse_prefix=reuse, progress=lambda n: n >= least
        )
        tokens = self.session.lengths[0]
        # an earlier prompt's beginning counts as read already
        self.holds([[("ended", (ids, tokens)) if tokens < len(ids) else ("read", ids)]])
        self.check(found, self.rows)

    def extend(self) -> None:
        rows = [self.ids(30) for _ in self.rows]
        if not self.hooked and self.draw.random() < 0.7:
            rows = [row[: min(map(len, rows))] for row in rows]
        ids, mask = self.padded(rows)
        try:
            room = self.draw.choice((0, 0, 40))
            found = self.asked(self.session.extend, ids, mask, max_new_tokens=room)
        except ConfigError as error:
            self.native_refusal(error)
            return
        self.holds([[*old, ("read", new)] for old, new in zip(self.rows, rows, strict=True)])
        self.check(found, self.rows)
        self.check_views()

    def decode(self) -> None:
        tokens = [self.draw.randrange(3, VOCABULARY) for _ in self.rows]
        try:
            found = self.asked(self.session.decode, torch.tensor(tokens)[:, None])
        except ConfigError as error:
            if self.unread and "would read one twice" in str(error):
                return
            self.native_refusal(error)
            return
        assert not self.unread
        self.holds([[*row, ("token", t)] for row, t in zip(self.rows, tokens, strict=True)])
        self.check(found, self.rows)
        self.check_views()

    def native_refusal(self, error: ConfigError) -> None:
        """What native methods say of rows that they cannot go on with; the session may have to read
        the prompt again."""
        words = ("turns of one length", "drops keys", "has dropped keys", "compresses a prompt")
        if self.hooked or not any(word in str(error) for word in words):
            raise error
        self.perhaps = True

    def generate(self) -> None:
        rows = self.batch()
        ids, mask = self.padded(rows)
        self.generated([[("read", row)] for row in rows], ids, attention_mask=mask)

    def go_on(self) -> None:
        self.generated(self.rows)

    def generated(self, rows: list[Row], *prompt: Any, **more: Any) -> None:
        ends = self.draw.sample(range(3, VOCABULARY), self.draw.choice((0, 10, 40)))
        limit = self.draw.choice((1, 2, 5, 12))
        if not prompt:
            prompt = (None,)
        try:
            found = self.session.generate(
                *prompt, max_new_tokens=limit, stop_token_ids=ends, **more
            ).tolist()
        except ConfigError as error:
            self.native_refusal(error)
            return
        new = []
        for row in found:
            end = next((i for i, token in enumerate(row) if token in ends), len(row) - 1)
            new.append(row[: end + 1])
        self.check_tokens(new, rows)
        self.holds([[*old, *(("token", t) for t in row)] for old, row in zip(rows, new)], True)  # noqa: B905

    def nll(self) -> None:
        answer = [self.draw.randrange(3, VOCABULARY) for _ in range(self.draw.choice((1, 2, 6)))]
        found = self.session.answer_nll(answer)
        row = self.rows[0]
        logits = self.replay([*row, *(("token", token) for token in answer[:-1])])
        scores = [at.double().log_softmax(-1) for at in logits[len(row) - 1 :]]
        nll = -sum(float(at[token]) for at, token in zip(scores, answer, strict=True)) / len(answer)
        assert found == pytest.approx(nll, abs=self.tolerance * 10)
        self.holds([row])

    def save(self) -> None:
        folder = self.folder / str(len(self.saved))
        try:
            self.session.save(folder)
        except ConfigError as error:
            if "not kept on disk" not in str(error):
                raise
            self.perhaps = True  # the last token may have been read
            self.unread = self.session.lengths != [sum(map(_tokens, self.rows[0]))]
            return
        self.holds(self.rows)
        self.saved[folder] = self.rows[0]

    def load(self) -> None:
        if not self.saved:
            return
        folder, row = self.draw.choice(list(self.saved.items()))
        found = self.session.load(folder, max_new_tokens=self.draw.choice((0, 50)))
        self.holds([row])
        self.check(found, self.rows)

    def reset(self) -> None:
        self.session.reset()
        self.rows, self.unread, self.perhaps = None, False, False
        with pytest.raises(ConfigError, match="Call prefill first"):
            self.session.generate()

    def users(self) -> None:
        """Forwards of the model itself: a prompt, turns and tokens behind it."""
        if not self.hooked:
            return
        rows = [[("read", row)] for row in self.batch()]
        ids, mask = self.padded([row[0][1] for row in rows])
        ids, past = ids.clamp(min=0), None
        self.rows, self.unread, self.perhaps = None, False, False
        for _ in range(self.draw.choice((1, 2, 4))):
            given: dict[str, Any] = {"output_hidden_states": self.draw.random() < 0.2}
            given["logits_to_keep"] = self.draw.choice((0, 1))
            if past is not None:
                given["past_key_values"] = past
            if mask is not None:
                given["attention_mask"] = mask
            if self.draw.random() < 0.2:
                given["inputs_embeds"] = self.model.get_input_embeddings()(ids.long())
            else:
                given["input_ids"] = ids
            mode = self.draw.choice((torch.no_grad, torch.inference_mode, torch.enable_grad))
            with mode():
                out = self.model(**given)
            past = out.past_key_values
            self.check(out.logits[:, -1].detach(), rows)
            width = self.draw.choice((1, 1, self.draw.randint(2, 15)))
            ids = torch.tensor([self.more(width) for _ in rows])
            if mask is not None:
                mask = torch.cat((mask, mask.new_ones(len(rows), width)), 1)
            for row, new in zip(rows, ids.tolist(), strict=True):
                row.append(("token", new[0]) if width == 1 else ("read", new))

    def more(self, width: int) -> list[int]:
        return [self.draw.randrange(3, VOCABULARY) for _ in range(width)]

    def model_generate(self) -> None:
        if self.one:  # kvpress compresses there too, by the ratio of the session's last prompt
            return
        rows = self.batch()
        ids, mask = self.padded(rows)
        ids = ids.clamp(min=0).long()
        mask = torch.ones_like(ids) if mask is None else mask.long()
        limit = self.draw.choice((1, 2, 6))
        found = self.model.generate(
            ids, attention_mask=mask, max_new_tokens=limit, do_sample=False, pad_token_id=0
        )
        new = found[:, ids.shape[1] :].tolist()
        self.check_tokens(new, [[("read", row)] for row in rows])
        if self.hooked:
            self.rows, self.unread, self.perhaps = None, False, False

    def refused(self) -> None:
        """Nothing changes."""
        session, model = self.session, self.model
        ids = torch.tensor([self.ids(20)])
        calls: list[Callable[[], Any]] = [
            lambda: session.prefill(ids + 1000), lambda: session.prefill(ids.double()),
            lambda: session.prefill(ids[0]), lambda: session.prefill(ids[:, :0]),
            lambda: session.prefill(ids, torch.zeros_like(ids)),
            lambda: session.extend(ids.repeat(9, 1)), lambda: session.decode(ids.repeat(9, 2)),
            lambda: session.generate(ids, 0), lambda: session.generate(ids, top_p=0.5),
            lambda: session.load(self.folder / "none"), lambda: session.answer_nll([1000]),
            lambda: session.extend(-ids), lambda: session.prefill(ids, document_tokens=1000),
        ]  # fmt: skip
        if self.hooked:
            hole = torch.ones(1, 3).index_fill(1, torch.tensor([1]), 0)
            calls += [
                lambda: model(ids, use_cache=False), lambda: model(ids, labels=ids),
                lambda: model(ids[:, :1].repeat(1, 3), attention_mask=hole),
                lambda: model(ids, position_ids=torch.full_like(ids, 7)),
                lambda: model(ids + 1000), lambda: model.base_model(ids, use_cache=False),
                lambda: model(ids, attention_mask=torch.ones(1, ids.shape[1] + 4)),
            ]  # fmt: skip
        with pytest.raises(ReAttentionError):
            self.draw.choice(calls)()

    def failed(self) -> None:
        """Something raises inside a call: the session asks for a prompt, or goes on as before."""
        names = ["prefill", "generate", "ended", "users", "load"]
        names += ["extend", "decode", "go_on"] if self.rows else []
        names += ["nll"] if self.rows and len(self.rows) == 1 else []
        held, unread = self.rows, self.unread
        error = self.draw.choice((Boom, KeyboardInterrupt, torch.OutOfMemoryError, MemoryError))
        ends = self.draw.choice((self.a_module_fails, self.memory_ends))
        try:
            with ends(error, self.draw.choice((1, 1, 2, 4, 7))):
                getattr(self, self.draw.choice(names))()
        except error:
            self.rows, self.perhaps = held, True
            if unread:  # its last tokens may have been read
                last = [sum(map(_tokens, row)) - 1 for row in held]
                self.unread = self.session.lengths == last

    @contextmanager
    def a_module_fails(self, error: type[BaseException], at: int) -> Iterator[None]:
        """When it is called for the `at`th time."""
        module = self.draw.choice([m for m in self.model.modules() if not list(m.children())])
        handle = module.register_forward_pre_hook(self.failing(lambda *_: None, error, at))
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def memory_ends(self, error: type[BaseException], at: int) -> Iterator[None]:
        """When the cache makes storage for the `at`th time; the truth's has what it needs."""
        places, real = (host_keys, last_fetched, value_window, values), values.storage
        fails = self.failing(real, error, at)

        def made(*given: Any) -> Any:
            return real(*given) if self.replaying else fails(*given)

        with self.patch.context() as patch:
            for place in places:
                patch.setattr(place, "storage", made)
            yield

    @staticmethod
    def failing(call: Callable[..., Any], error: type[BaseException], at: int) -> Any:
        calls = itertools.count(1)

        def fail(*given: Any) -> Any:
            if next(calls) == at:
                raise error
            return call(*given)

        return fail

    def other(self) -> None:
        """Another model under another method in the middle of it."""
        method = a_method(self.draw, ("reattention", "infllm", "quest"))
        with attach(model_of("qwen2", 4, 2, "default", torch.float64, None, 2), method) as session:
            one = session.prefill(torch.tensor([list(range(3, 60))]))
            session.generate(max_new_tokens=2)
            assert torch.equal(session.prefill(torch.tensor([list(range(3, 60))])), one)


def _tokens(step: tuple[str, Any]) -> int:
    kind, what = step
    return {"read": lambda: len(what), "ended": lambda: what[1], "token": lambda: 1}[kind]()


def run_case(seed: int, folder: Path, operations: int = 8) -> tuple[str, Counter[str]]:
    """What was run, and how many of each operation."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        storm = Storm(seed, patch, folder)
        try:
            return storm.method.name, storm.run(operations)
        except BaseException as error:
            error.add_note(f"seed {seed}: {storm.what}, {storm.ways}, after {dict(storm.done)}")
            raise
