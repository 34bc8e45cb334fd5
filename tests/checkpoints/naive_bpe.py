"""A GGUF file's byte-level BPE as a plain loop: an implementation apart from `tokenizers`."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import regex

# tokenization_qwen.py of the authors' first release
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = [
    "",
    " ",
    "Hello, world!",
    "12345 67 8.9e-10, 1,000,000 and 0x1F; ٣٤٥ and ½",
    "a 12  3\t4\n\n  5   \n",
    "def f(x: int) -> int:\n    if x >= 10:\n\t\treturn x ** 2  # comment\r\n    return f(x+1)\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] * 0.5f; }   // tail   ",
    "今天天气很好，我们去公园吧。2024年5月1日，共123人。",  # noqa: RUF001
    "混合text和数字42，還有繁體字與日本語のかな、한국어도.",  # noqa: RUF001
    "🙂👩\u200d👩\u200d👧\u200d👦🇩🇪 emoji 👍🏽 mid ✈\ufe0f text 🏴\U000e0067\U000e007f",
    "I'm sure they'LL say it's WE'RE 'twas D'Or don't",
    "cafe\u0301 and caf\u00e9, A\u030a vs \u00c5, \u1112\u1161\u11ab \ufb01 \u2126",
    "\u00a0non\u2003breaking\u3000spaces\u200b and\u0000 nul",
    "<|im_start|>user\nhi<|im_end|>\n<tool_call>{}</tool_call><|endoftext|>",
    "https://example.org/a_b?c=1&d=%20#x  --flag=\"quoted\\n\" $\\alpha_{i}^{2}$ ^^ ~~",
    "Ω≈ç√∫˜µ≤≥÷ åß∂ƒ©˙∆˚¬…æ العربية עברית हिन्दी ไทย",  # noqa: RUF001
]  # fmt: skip


class NaiveBPE:
    """Special tokens found in the text count as such; text in composed form (NFC), as Qwen's is."""

    def __init__(self, meta: Mapping[str, Any]) -> None:
        """`meta`: the file's metadata by name."""
        tokens, kinds = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
        self.ids = {token: i for i, token in enumerate(tokens)}
        self.ranks = {tuple(m.split(" ")): i for i, m in enumerate(meta["tokenizer.ggml.merges"])}
        self.characters = _byte_characters()
        whole = [token for token, kind in zip(tokens, kinds, strict=True) if kind in (3, 4)]
        self.whole = regex.compile("(" + "|".join(map(regex.escape, whole)) + ")")

    def encode(self, text: str) -> list[int]:
        out: list[int] = []
        for i, piece in enumerate(self.whole.split(text)):
            if i % 2:
                out.append(self.ids[piece])
                continue
            for word in regex.findall(QWEN_PATTERN, unicodedata.normalize("NFC", piece)):
                out += [self.ids[token] for token in self._merge(word)]
        return out

    def _merge(self, word: str) -> list[str]:
        """The first of all merges that fit, again and again; its leftmost place first."""
        parts = [self.characters[byte] for byte in word.encode()]
        while True:
            pairs = [(self.ranks.get(p), i) for i, p in enumerate(pairwise(parts))]
            fitting = [(rank, i) for rank, i in pairs if rank is not None]
            if not fitting:
                return parts
            _, i = min(fitting)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]


def _byte_characters() -> dict[int, str]:
    """GPT-2's printable character of each byte: itself where printable, else from U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
