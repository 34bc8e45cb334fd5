"""What one case of the storm draws, holds, and is compared with."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from storm_draws import PRESSES, a_method, a_model, model_of
from torch import Tensor

from reattention_eval import Session
from reattention_eval.methods import ViewMethod

VOCABULARY = 97
Row = list[tuple[str, Any]]  # "read" ids, "ended" (ids, tokens read), "token" id


class Case:
    """A model, a method, a cache, and what each row of the session has read."""

    def __init__(self, seed: int, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.draw = draw = random.Random(seed)
        self.patch, self.folder, self.done = patch, folder, Counter[str]()
        presses = draw.random() < 0.05 and transformers.__version__.startswith("4.")
        self.method = a_method(draw, PRESSES) if presses else a_method(draw)
        made = a_model(draw, self.method)
        self.model, self.alone = model_of(*made, 0), model_of(*made, 1)
        self.tolerance = 1e-9 if made[4] == torch.float64 else 2e-3
        if made[3] == "dynamic" or self.method.name == "dynamic_ntk":
            self.tolerance = max(self.tolerance, 1e-4)  # angles are float32
        self.hooked = isinstance(self.method, ViewMethod)
        self.exact = made[4] == torch.float64
        self.rows: list[Row] | None = None
        self.unread = self.perhaps = self.replaying = False
        self.prompts: list[list[int]] = []
        self.saved: dict[Path, Row] = {}
        self.one = self.method.name in PRESSES
        self.what = f"{made[:5]} {self.method}"
        self.choose_ways()

    def choose_ways(self) -> None:
        """How the session reads, which must not matter: its cache, chunks a forward, repeats."""
        caches = ("device", "device", "values_on_host", "host", "auto")
        self.cache = self.draw.choice(caches) if self.hooked else "device"
        sizes = self.draw.choice(((1,), (1,), (2, 3, 9), (40,)))
        self.sizes = itertools.cycle(sizes)
        self.repeats = self.exact and self.draw.random() < 0.3
        self.ways = f"{self.cache} {sizes} {'repeated' if self.repeats else ''}"

    # -- what is drawn -----------------------------------------------------------------------------

    def ids(self, longest: int = 90) -> list[int]:
        count = self.draw.choice((1, 2, self.draw.randint(1, 20), self.draw.randint(1, longest)))
        if self.draw.random() < 0.03 and self.hooked:
            count = 300
        return [self.draw.randrange(3, VOCABULARY) for _ in range(count)]

    def prompt(self) -> list[int]:
        ids = self.ids()
        if self.prompts and self.draw.random() < 0.5:
            shared = self.draw.choice(self.prompts)
            ids = shared[: self.draw.randint(1, len(shared))] + self.draw.choice(([], ids))
        self.prompts.append(ids)
        return ids

    def batch(self) -> list[list[int]]:
        rows = 1 if self.one else self.draw.choice((1, 1, 1, 2, 3))
        return [self.prompt() for _ in range(rows)]

    def padded(self, rows: list[list[int]]) -> tuple[Tensor, Tensor | None]:
        """Padding may be anything that is no token."""
        width = max(map(len, rows)) + self.draw.choice((0, 0, 3))
        ids = torch.tensor([[-7] * (width - len(row)) + row for row in rows])
        if width == min(map(len, rows)) and self.draw.random() < 0.7:
            return ids.to(self.draw.choice((torch.int64, torch.int32))), None
        mask = (torch.arange(width) >= torch.tensor([[width - len(row)] for row in rows])).long()
        return ids, mask.to(self.draw.choice((torch.int64, torch.bool)))

    # -- the truth ---------------------------------------------------------------------------------

    def replay(self, row: Row) -> list[Tensor]:
        """Logits behind each step of a row."""
        self.replaying = True
        with self.truth.watching_views() as views:
            found = self.steps(self.truth, row)
            self.true_views = views()
        self.replaying = False
        return found

    def steps(self, session: Session, row: Row) -> list[Tensor]:
        found = []
        for i, (kind, what) in enumerate(row):
            if kind == "token":
                found.append(session.decode(torch.tensor([[what]])))
            elif kind == "ended":
                ids, tokens = what
                ended = session.prefill(torch.tensor([ids]), progress=lambda n: n >= tokens)  # noqa: B023
                assert session.lengths == [tokens]
                found.append(ended)
            else:
                read = session.extend if i else session.prefill
                found.append(read(torch.tensor([what])))
        return [logits[0] for logits in found]

    def asked(self, read: Callable[..., Tensor], *given: Any, **more: Any) -> Tensor:
        with self.session.watching_views() as views:
            found = read(*given, **more)
            self.views = views()
        return found

    def check_views(self) -> None:
        """What each layer's last chunk attended to, of a row alone."""
        if len(self.rows) == 1:
            self.replay(self.rows[0])
            assert self.views == self.true_views

    def check(self, logits: Tensor, rows: list[Row]) -> None:
        chosen = range(len(rows)) if self.draw.random() < 0.5 else [self.draw.randrange(len(rows))]
        for row in chosen:
            self.close(logits[row], self.replay(rows[row])[-1])

    def close(self, found: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(
            found.double(), expected.double(), rtol=0, atol=self.tolerance * 10, msg=lambda m: m
        )

    def check_tokens(self, new: list[list[int]], rows: list[Row]) -> None:
        """Each is what full greedy decoding of its row alone would take, but for equal logits."""
        row = self.draw.randrange(len(rows))
        tokens: Row = [("token", token) for token in new[row][:-1]]
        logits = self.replay(rows[row] + tokens)[len(rows[row]) - 1 :]
        for token, at in zip(new[row], logits, strict=True):
            assert float(at.max() - at[token]) < self.tolerance * 10
