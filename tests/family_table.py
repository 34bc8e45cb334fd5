"""Tries a method on every decoder family; writes the table of docs/models.md.

python tests/family_table.py            # rewrite this transformers version's column
python tests/family_table.py --check    # exit 1 where the committed one differs
"""

from __future__ import annotations

import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from families import FAMILIES, VOCABULARY, tiny_family

from reattention_eval import FullAttention, attach
from reattention_eval.errors import ReAttentionError

TABLE = Path(__file__).parents[1] / "docs" / "models.md"
MAJOR = f"{transformers.__version__.split('.')[0]}.x"
BEGIN, END = f"<!-- families {MAJOR} -->", f"<!-- end families {MAJOR} -->"
# no tiny model can be made from the family's configuration: why
NOT_BUILT = {
    "dots3_note_text": "settings differ by layer",
    "emu3": "made of several models",
    "gemma3n": "needs timm",
    "gemma4_assistant": "reads another model's cache",
    "gemma4_text": "settings differ by layer",
    "gemma4_unified_assistant": "reads another model's cache",
    "gemma4_unified_text": "settings differ by layer",
    "blt": "made of several models",
    "llama4": "made of several models",
    "mllama": "made of several models",
    "musicgen": "made of several models",
    "musicgen_melody": "made of several models",
    "phi4_multimodal": "made of several models",
    "qdqbert": "needs pytorch-quantization",
    "qwen3_5": "made of several models",
    "qwen3_5_moe": "made of several models",
    "qwen4_exp": "made of several models",
    "reformer": "an encoder unless told otherwise",
    "speech_to_text_2": "broken in this version",
    "transfo-xl": "sizes depend on each other",
    "zamba": "sizes depend on each other",
    "zamba2": "sizes depend on each other",
}
# a part of the refusal, and what the table calls it
REASONS = {
    "no rotary position embedding": "no RoPE",
    "latent attention": "latent attention",
    "soft-capped": "soft-capped scores",
    "attention sinks": "learned sinks",
    "mask of its own": "own mask",
    "more than once": "attention shared or called twice",
    "attend through": "attention of its own, or other layers",
    "logits_to_keep": "logits of all tokens",
    "is not RoPE of": "more than RoPE",
    "is not the usual one": "own kind of RoPE",
    "joins its text decoder": "load its text model",
    "the methods' cache holds both alike": "values of another size",
    "language-model head": "no head",
    "encoder-decoder": "encoder-decoder",
    "conv state": "attention of its own, or other layers",
    "has_previous_state": "attention of its own, or other layers",
    "its forward failed": "forward fails",
}


@dataclass(frozen=True)
class Verdict:
    """kind: "served", "refused" or "not built"; text: the refusal, or why."""

    kind: str
    text: str = ""

    @property
    def reason(self) -> str:
        return next((short for part, short in REASONS.items() if part in self.text), self.text)


def verdict(family: str) -> Verdict:
    """Raises AssertionError for logits that are not the model's, and what attach raises besides
    this project's errors."""
    try:
        model = tiny_family(family)
    except Exception as error:  # whatever an unusual configuration raises
        return Verdict("not built", NOT_BUILT.get(family, repr(error)))
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (1, 153), generator=generator)
    exact = None
    refusals = []
    for dtype in (torch.float32, torch.bfloat16):
        meta = next(model.parameters()).is_meta
        try:
            model.to(dtype) if not meta else None
            with attach(model, FullAttention(chunk_size=32)) as session:
                session.prefill(ids[:, :150])
                for t in range(150, 153):
                    found = session.decode(ids[:, t : t + 1]).float()
        except ReAttentionError as error:
            refusals.append(str(error))
            continue
        with torch.inference_mode():
            own = model(input_ids=ids).logits[:, -1].float()
        exact = own if exact is None else exact
        if dtype == torch.float32:
            assert (found - own).abs().max() <= 2e-5 * own.abs().max(), family
        else:
            assert (found - exact).norm() <= 2 * (own - exact).norm(), family
    if not refusals:
        return Verdict("served")
    if "meta device" in refusals[0]:
        return Verdict("not built", NOT_BUILT.get(family, "made of several models"))
    if len(refusals) == 1:  # only a model whose own forward does not run in bfloat16
        assert "its forward failed" in refusals[0], f"{family}: {refusals[0]}"
        return Verdict("served", "float32 only")
    return Verdict("refused", refusals[0])


def section() -> str:
    by_kind: dict[str, dict[str, list[str]]] = {}
    for family in FAMILIES:
        found = verdict(family)
        by_kind.setdefault(found.kind, {}).setdefault(found.reason, []).append(f"`{family}`")
    lines = [BEGIN, f"transformers {transformers.__version__}, {len(FAMILIES)} families:", ""]
    lines += ["| | why | families |", "| --- | --- | --- |"]
    for kind in ("served", "refused", "not built"):
        for reason, families in sorted(by_kind.get(kind, {}).items()):
            lines.append(f"| {kind} | {reason} | {', '.join(sorted(families))} |")
    return "\n".join([*lines, END])


def main() -> int:
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    old = TABLE.read_text(encoding="utf-8")
    made = section()
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    if "--check" in sys.argv:
        return 0 if made in old else (print(made) or 1)
    TABLE.write_text(pattern.sub(lambda _: made, old), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
