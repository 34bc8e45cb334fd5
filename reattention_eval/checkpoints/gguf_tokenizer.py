"""The byte-level BPE tokenizer that a GGUF file holds, as tokenizers and transformers keep it.

GGUF stores tokens and merges, and of the rules that cut text before them only a name
(`tokenizer.ggml.pre`): the rules themselves are here, as their models' own tokenizer.json has them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# gguf.TokenType
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write_tokenizer(meta: Mapping[str, Any], folder: Path, length: int) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat template (if there is one).

    Args:
        meta: the file's metadata by name; `tokenizer.ggml.pre` is in `PRE_TOKENIZERS`.
        length: the model's trained window, in tokens.
    """
    _tokenizer(meta).save(str(folder / "tokenizer.json"))
    text = json.dumps(_config(meta, length), indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    if template := meta.get("tokenizer.chat_template"):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _tokenizer(meta: Mapping[str, Any]) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models

    kinds = dict(zip(meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"], strict=True))
    merges = [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]]
    # unused ones pad the embedding; no text has them
    vocabulary = {token: i for i, (token, kind) in enumerate(kinds.items()) if kind != _UNUSED}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    PRE_TOKENIZERS[meta["tokenizer.ggml.pre"]](tokenizer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(
        [
            AddedToken(token, special=kind == _CONTROL, normalized=False)
            for token, kind in kinds.items()
            if kind in (_CONTROL, _USER_DEFINED)
        ]
    )
    return tokenizer


def _smollm(tokenizer: Tokenizer) -> None:
    from tokenizers import pre_tokenizers

    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # without it white space before digits joins
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )


def _qwen2(tokenizer: Tokenizer) -> None:
    from tokenizers import Regex, normalizers, pre_tokenizers

    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


# GGUF's name of the rules -> what sets them
PRE_TOKENIZERS: Mapping[str, Callable[[Tokenizer], None]] = {"smollm": _smollm, "qwen2": _qwen2}


def _config(meta: Mapping[str, Any], length: int) -> dict[str, Any]:
    tokens = meta["tokenizer.ggml.tokens"]
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {name: meta.get(f"tokenizer.ggml.{key}_token_id") for name, key in names.items()}
    if ids["bos"] == ids["pad"]:
        ids["bos"] = None  # Qwen2 has none: its converter names the padding
    return {
        # the name that both majors know
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": length,
        **{f"{name}_token": tokens[i] for name, i in ids.items() if i is not None},
    }
