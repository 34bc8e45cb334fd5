"""What a checkpoint says of itself: where it is, its configuration, its tokenizer."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reattention_eval.checkpoints import internlm2
from reattention_eval.checkpoints.embedded import prepared_model_folder
from reattention_eval.checkpoints.embedded_models import EMBEDDED_MODELS
from reattention_eval.checkpoints.folder import read_json
from reattention_eval.checkpoints.hub import first_line, hub_error
from reattention_eval.checkpoints.local import is_embedded
from reattention_eval.checkpoints.sentencepiece_bpe import (
    MODEL_FILE,
    MODEL_INPUTS,
    load_sentencepiece,
)
from reattention_eval.errors import CheckpointError
from reattention_eval.rope_names import with_rope_read

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_INTERNLM2_TOKENIZER = "InternLM2Tokenizer"
# tokenizer.json says it all: transformers 5 writes the first, which 4 does not know, and builds the
# class of the model's own kind for the second; the last is InternLM2's
_PLAIN = ("TokenizersBackend", "PreTrainedTokenizerFast", _INTERNLM2_TOKENIZER)


def local_or_hub(path: str | os.PathLike[str]) -> Path | str:
    """A folder that exists, that of an embedded model, or a hub id as it is. Fetches nothing.

    Raises:
        CheckpointError: none of them, or an embedded model that was not fetched.
    """
    if is_embedded(path):
        return prepared_model_folder(os.fspath(path))
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{path} is a file; give the folder that holds config.json.")
    text = os.fspath(path)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text):
        raise CheckpointError(
            f"the model folder {text} does not exist; "
            "check the path, or give a hub id in the form owner/name or one of "
            f"{', '.join(EMBEDDED_MODELS)}."
        )
    return text


def read_settings(source: Path | str) -> dict[str, Any]:
    """config.json as it is written."""
    from transformers import PretrainedConfig

    try:
        settings, _ = PretrainedConfig.get_config_dict(source)
    except (OSError, ValueError) as error:
        raise _unknown(source, "config.json", error) from error
    return dict(settings)


def read_config(source: Path | str, settings: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    if settings.get("model_type") == internlm2.MODEL_TYPE:
        return internlm2.llama_config(settings, str(source))
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        raise _unknown(source, "config.json", error) from error
    return with_rope_read(config)


def read_tokenizer(source: Path | str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        if isinstance(source, Path):
            kind = _class_of_tokenizer(source)
            if kind.startswith(_INTERNLM2_TOKENIZER) and (source / MODEL_FILE).is_file():
                return load_sentencepiece(source)
            if kind.startswith(_PLAIN) and (source / "tokenizer.json").is_file():
                # the class's own default has token types, which no decoder takes
                return PreTrainedTokenizerFast.from_pretrained(
                    source, model_input_names=MODEL_INPUTS
                )
        return AutoTokenizer.from_pretrained(source)
    except CheckpointError:
        raise
    except Exception as error:  # tokenizers raises bare Exception on a damaged file
        raise _unknown(source, "the tokenizer", error) from error


def _class_of_tokenizer(folder: Path) -> str:
    settings = folder / "tokenizer_config.json"
    name = read_json(settings).get("tokenizer_class") if settings.is_file() else None
    return str(name or "")


def _unknown(source: Path | str, part: str, error: Exception) -> CheckpointError:
    if isinstance(source, Path):
        return CheckpointError(
            f"{part} of {source} cannot be loaded ({first_line(error)}); fetch the model again, "
            "or install a transformers version that knows this kind of model."
        )
    return hub_error(source, part, error)
