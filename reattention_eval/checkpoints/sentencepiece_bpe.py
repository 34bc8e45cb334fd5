"""A fast tokenizer from a sentencepiece BPE model, for checkpoints that ship nothing else.

Byte-pair merges are the pairs of pieces that make another piece, best score first (Kudo and
Richardson, 2018, arXiv 1808.06226); characters without a piece become their UTF-8 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from reattention_eval.checkpoints.folder import read_json
from reattention_eval.errors import CheckpointError

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

MODEL_FILE = "tokenizer.model"
_SPACE = "▁"
# what a normalisation other than "identity" would change: width, ligature, accent, controls
_PROBES = ("Ａ①ﬁ", "Å", "e\u0301", "a\tb", "a\nb", "a\u3000b", "\u00a0x")
_SAMPLE = (
    "Writing essays is a way to find out what you think; 1234567 readers, 3.14 results.\n"
    "def f(x):\n    return {x: 'naïve'}\t# ünïcödé 中文的句子在这里。🙂  The end "
)
MODEL_INPUTS = ["input_ids", "attention_mask"]
_ROLES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}


def load_sentencepiece(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of `folder`: tokenizer.model and what tokenizer_config.json says of it.

    Token ids are the sentencepiece library's; `added_tokens_decoder` renames pieces and makes
    them special, the chat template is the file's own. A BOS goes in front unless add_bos_token is
    false.

    Raises:
        CheckpointError: no tokenizer.model, a damaged one, or one that is no plain BPE.
    """
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    settings = read_json(folder / "tokenizer_config.json")
    added = {
        int(i): token for i, token in (settings.get("added_tokens_decoder") or {}).items()
    }  # {id: {content, special, ...}}
    backend = convert(read_model(folder / MODEL_FILE), added)
    roles = {role: _text(settings.get(role) or name) for role, name in _ROLES.items()}
    ends: dict[str, list[str]] = {"bos": [], "eos": []}
    for side, default in (("bos", True), ("eos", False)):
        if settings.get(f"add_{side}_token", default):
            ends[side].append(roles[f"{side}_token"])
    backend.post_processor = processors.TemplateProcessing(
        single=[*ends["bos"], "$A", *ends["eos"]],
        special_tokens=[(t, backend.token_to_id(t)) for side in ends.values() for t in side],
    )
    more = [_text(token) for token in settings.get("additional_special_tokens") or ()]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        additional_special_tokens=more,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_input_names=MODEL_INPUTS,
        **roles,
    )
    tokenizer.chat_template = _chat_template(folder, settings)
    return tokenizer


def read_model(path: Path) -> SentencePieceProcessor:
    """The sentencepiece library's own reader, for a file that is there and whole."""
    from sentencepiece import SentencePieceProcessor

    if not path.is_file():
        raise CheckpointError(f"{path.parent} holds no {path.name}; fetch the model again.")
    try:
        return SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is no sentencepiece model ({path.stat().st_size:,} bytes); "
            "fetch the model again."
        ) from error


def convert(model: SentencePieceProcessor, added: Mapping[int, Mapping[str, Any]]) -> Tokenizer:
    """`model` as a tokenizers.Tokenizer; `added` renames pieces by id and says which are special.

    Raises:
        CheckpointError: the model is no plain BPE: it rewrites its text, has no pieces for bytes,
            or cuts text otherwise than its converted form.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers
    from tokenizers.models import BPE

    folds = _folds(model)
    size = model.vocab_size()
    vocabulary = {model.id_to_piece(i): i for i in range(size)}
    texts = {p: i for p, i in vocabulary.items() if i not in added and _is_text(model, i)}
    merges = _merges(model, texts)
    made = {left + right for left, right in merges}
    # pieces that no pair makes: their trainer wanted them never cut
    whole = {i: (p, False) for p, i in texts.items() if len(p) > 1 and p not in made}
    for i, token in added.items():
        if i < size:
            vocabulary.pop(model.id_to_piece(i), None)
        vocabulary[token["content"]] = i
        whole[i] = (token["content"], bool(token.get("special", True)))
    unknown = model.unk_id()
    backend = Tokenizer(
        BPE(
            vocabulary, merges, fuse_unk=True, byte_fallback=True,
            unk_token=next(piece for piece, i in vocabulary.items() if i == unknown),
        )
    )  # fmt: skip
    steps: list[Any] = [normalizers.NFKC()] if folds else []
    if _adds_space(model):
        steps.append(normalizers.Prepend(_SPACE))
    steps.append(normalizers.Replace(" ", _SPACE))
    backend.normalizer = normalizers.Sequence(steps)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )  # fmt: skip
    _check_same(model, backend)
    for _, (text, special) in sorted(whole.items()):
        backend.add_tokens([AddedToken(text, normalized=False, special=special)])
    return backend


def _merges(model: SentencePieceProcessor, texts: Mapping[str, int]) -> list[tuple[str, str]]:
    """Pairs of pieces that make a piece: best score first, then by the ids of their parts."""
    ranked = []
    for piece, i in texts.items():
        score = model.get_score(i)
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in texts and right in texts:
                ranked.append(((-score, i, texts[left], texts[right]), (left, right)))
    return [pair for _, pair in sorted(ranked)]


def _is_text(model: SentencePieceProcessor, i: int) -> bool:
    asks = (model.is_byte, model.is_control, model.is_unknown, model.is_unused)
    return not any(ask(i) for ask in asks)


def _adds_space(model: SentencePieceProcessor) -> bool:
    return bool(model.normalize("a").startswith(_SPACE))


def _folds(model: SentencePieceProcessor) -> bool:
    """Whether the model takes text in Unicode's compatibility form (NFKC) or as it is."""
    start = _SPACE if _adds_space(model) else ""
    if model.normalize("a  b ") != f"{start}a{_SPACE * 2}b{_SPACE}":
        raise _other_kind("it rewrites white space")
    if not any(model.is_byte(i) for i in range(model.vocab_size())):
        raise _other_kind("it has no pieces for bytes")
    found = [model.normalize(text) for text in _PROBES]
    for folds in (False, True):
        texts = [normalize("NFKC", text) if folds else text for text in _PROBES]
        if found == [start + text.replace(" ", _SPACE) for text in texts]:
            return folds
    changed = next(t for t, f in zip(_PROBES, found, strict=True) if f != start + t)
    raise _other_kind(f"it rewrites {changed!r}")


def _check_same(model: SentencePieceProcessor, backend: Tokenizer) -> None:
    """Both must cut a text of many kinds of characters alike, as a unigram model would not."""
    if backend.encode(_SAMPLE, add_special_tokens=False).ids != model.encode(_SAMPLE):
        raise _other_kind("it cuts text by another rule than byte pairs")


def _other_kind(found: str) -> CheckpointError:
    return CheckpointError(
        f"the sentencepiece model is not the plain byte-fallback BPE that this loader knows "
        f"({found}); convert it to a tokenizer.json with its authors' tool."
    )


def _text(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> Any:
    file = folder / "chat_template.jinja"
    return file.read_text(encoding="utf-8") if file.is_file() else settings.get("chat_template")
