"""A method of one's own: the first tokens, every stride-th of the middle, and the last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from reattention_eval import attach
from reattention_eval.attention import View
from reattention_eval.cache import RowCache
from reattention_eval.methods import ViewMethod


@dataclass(frozen=True)
class EveryOther(ViewMethod):
    """Keeps `sink_size` first and `local_size` last tokens, and thins out what lies between.

    The stride is the smallest that lets the middle fit into `middle_size` tokens.
    """

    name: ClassVar[str] = "every_other"
    source: ClassVar[str] = "docs/adding-a-method.md"
    sink_size: int = 4
    local_size: int = 64
    middle_size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            self.chunk_size <= self.local_size,
            f"chunk_size {self.chunk_size} must fit into local_size {self.local_size}",
        )

    @property
    def budget(self) -> int:
        return self.sink_size + self.middle_size + self.local_size

    def view(self, row: RowCache, query: Tensor) -> View:
        last = row.length - self.local_size
        stride = -(-(last - self.sink_size) // self.middle_size)
        middle = range(self.sink_size, last, stride)
        positions = [*range(self.sink_size), *middle, *range(last, row.length)]
        return View(torch.tensor(positions, device=query.device))

    def check(self, context_length: int) -> None:
        self.require(
            self.budget <= context_length,
            f"the budget of {self.budget} tokens exceeds the trained window of {context_length}; "
            "lower middle_size or local_size",
        )


def main() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=100, max_position_embeddings=256,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    prompt = torch.randint(100, (1, 1000))  # four times the window
    with attach(model, EveryOther(chunk_size=32)) as session:
        print(session.generate(prompt, max_new_tokens=8).tolist())
        print(session.stats)


if __name__ == "__main__":
    main()
