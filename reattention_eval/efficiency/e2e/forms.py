"""What is measured: a method as it is attached, or the plain model, the whole prompt at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, PreTrainedModel

from reattention_eval.cache import DEVICE
from reattention_eval.engine import Session, attach
from reattention_eval.engine.fit import check_cache, fit
from reattention_eval.errors import ConfigError
from reattention_eval.methods import Method, ViewMethod, build_method, method_of_text
from reattention_kernels.causal import attend_causal, causal_backends

FULL = ("full", "native_full")
FA3_NAME = "whole_prompt_fa3"
# transformers' own attention, in one forward of the whole prompt, restricted to one kernel
WHOLE: dict[str, SDPBackend | None] = {
    "whole-cudnn": SDPBackend.CUDNN_ATTENTION,
    "whole-flash": SDPBackend.FLASH_ATTENTION,
    "whole-fa3": None,
}


@dataclass(frozen=True)
class Form:
    """One way to read a prompt.

    Attributes:
        label: as it was asked for: `reattention`, `full:chunk_size=2048`, `whole-cudnn`.
        whole: one of WHOLE; None for a method that is attached.
        cache: where keys and values are, as `attach` takes it.
    """

    label: str
    method: Method
    whole: str | None = None
    cache: str = DEVICE

    @property
    def name(self) -> str:
        return form_name(self.label, self.cache)

    @property
    def full(self) -> bool:
        """Whether it is full attention, and so a baseline."""
        return self.method.name in FULL

    def in_tiers(self, tiers: Sequence[str]) -> list[Form]:
        """This form with its cache in each of `tiers`; once, on the device, where the method keeps
        the model's own cache.

        Raises:
            ConfigError: no such tier.
        """
        for tier in tiers:
            check_cache(tier)
        if not isinstance(self.method, ViewMethod):
            return [self]
        return [replace(self, cache=tier) for tier in dict.fromkeys(tiers)]

    @contextmanager
    def session(self, model: PreTrainedModel) -> Iterator[Session]:
        kernel = WHOLE[self.whole] if self.whole else None
        # the restriction last: the short prompt of `attach` is none of the kernel's business
        with (
            _attention(model, self.whole),
            attach(model, self.method, cache=self.cache) as session,
            sdpa_kernel(kernel) if kernel else nullcontext(),
        ):
            yield session


def form_name(label: str, cache: str) -> str:
    """As tables call it: the label alone where the cache is on the device."""
    return label if cache == DEVICE else f"{label}, {cache}"


def parse_form(text: str) -> Form:
    """`reattention`, `reattention:chunk_size=2048,max_spans=256`, or one of WHOLE.

    Raises:
        ConfigError: an unknown method, setting or value; a method that asks where a document ends.
    """
    if text in WHOLE:
        return Form(text, build_method("native_full"), text)
    method = method_of_text(text)
    if method.needs_document_end:
        raise ConfigError(
            f"{text} reads a document and then a question, and what is measured are prompts "
            "without one; leave that setting out (a number of last_tokens, query_aware=True)."
        )
    return Form(text, method)


def at_hand(device: torch.device) -> list[str]:
    """The forms of WHOLE that can run on this device."""
    found = ["whole-flash"]
    if device.type == "cuda":
        found.insert(0, "whole-cudnn")
        if causal_backends(device.index or 0)["fa3"] in ("chosen", "here"):
            found.append("whole-fa3")
    return found


def check_forms(forms: list[Form], device: torch.device) -> None:
    """Raise ConfigError for a form that cannot run here."""
    for form in forms:
        if form.whole and form.whole not in at_hand(device):
            raise ConfigError(
                f"{form.label} cannot run on {device}; at hand are {', '.join(at_hand(device))}. "
                "cuDNN and FlashAttention-3 need a GPU, the latter Hopper and the extra [flash]."
            )


def fitting_forms(forms: Sequence[Form]) -> Callable[[Any], Any]:
    """`configure` for loading a model that all of these are to run on, which leaves it as it is.

    It raises ConfigError for a form that cannot serve the model.
    """

    def configured(config: Any) -> Any:
        for form in forms:
            fit(form.method, config)
        return config

    return configured


@contextmanager
def _attention(model: PreTrainedModel, whole: str | None) -> Iterator[None]:
    """transformers' own attention for a whole prompt; as it was behind the block."""
    if whole is None:
        yield
        return
    own = model.config._attn_implementation
    if WHOLE[whole] is None:
        AttentionInterface.register(FA3_NAME, fa3_attention)
    model.set_attn_implementation("sdpa" if WHOLE[whole] else FA3_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(own)


def fa3_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """FlashAttention-3 (Shah et al., 2024, arXiv 2407.08608) as transformers calls an attention.

    query [B, H, T, D], key and value [B, Hkv, N, D] -> [B, T, H, D]; causal, lower right.
    """
    if attention_mask is not None:
        raise ConfigError("whole-fa3 takes prompts without padding.")
    assert scaling is not None
    return attend_causal(query, key, value, scaling, backend="fa3").transpose(1, 2), None
