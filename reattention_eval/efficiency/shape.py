"""The sizes of a decoder that memory depends on, read from its config.json alone."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reattention_eval.checkpoints import model_path
from reattention_eval.checkpoints.access import fetch_config
from reattention_eval.checkpoints.local import is_embedded
from reattention_eval.checkpoints.miniature import CONFIGS
from reattention_eval.checkpoints.paper_models import find_paper_model
from reattention_eval.checkpoints.quantization import KEY, weight_bits
from reattention_eval.context_length import context_length
from reattention_eval.errors import CheckpointError, ConfigError
from reattention_eval.json_text import read_object

# the same shape as the base form without it
_FORM = re.compile(r"(-Instruct|-chat)(-1m)?(-v[\d.]+)?$")
_BIASED = {"qwen2": 1}  # families with a bias on q, k and v whatever their config says


@dataclass(frozen=True)
class ModelShape:
    """A decoder of `layers` equal layers.

    Attributes:
        layer_parameters: of one layer.
        embedding_parameters: of the token embedding; the head is as large unless `tied`.
        window: trained window in tokens; None where the config does not say.
        weight_bits: of a layer's weight where they are quantised; None: as many as the dtype's.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    layer_parameters: int
    window: int | None
    weight_bits: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For records: weights of the dtype's own size say nothing of it, as ever."""
        every = asdict(self)
        if self.weight_bits is None:
            del every["weight_bits"]
        return every

    def layer_bytes(self, itemsize: int) -> int:
        """Of a layer's weights; itemsize: of the dtype that they are computed in."""
        bits = 8 * itemsize if self.weight_bits is None else self.weight_bits
        return int(self.layer_parameters * bits / 8)

    def bytes(self, itemsize: int) -> int:
        """Of all weights."""
        others = self.parameters - self.layers * self.layer_parameters
        return self.layers * self.layer_bytes(itemsize) + others * itemsize

    @property
    def embedding_parameters(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All of them, the last norm included."""
        tables = self.embedding_parameters * (1 if self.tied else 2)
        return self.layers * self.layer_parameters + tables + self.hidden


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """The shape that a config.json describes.

    Raises:
        ConfigError: not a decoder of the Llama kind (attention, gated MLP, two norms).
    """
    hidden, mlp = _size(config, "hidden_size"), _size(config, "intermediate_size")
    layers, heads = _size(config, "num_hidden_layers"), _size(config, "num_attention_heads")
    vocabulary = _size(config, "vocab_size")
    kind = str(config.get("model_type", ""))
    experts = [key for key in ("num_experts", "num_local_experts") if config.get(key)]
    if experts:
        raise ConfigError(
            f"a {kind} model with {config[experts[0]]} experts is not planned; add up the size of "
            "its weight files and 4 bytes x layers x KV heads x head size a token."
        )
    kv_heads = _size(config, "num_key_value_heads", heads)
    head_dim = _size(config, "head_dim", hidden // heads)
    q, kv = heads * head_dim, kv_heads * head_dim
    every_bias = bool(config.get("attention_bias") or config.get("bias"))
    biases = (q + 2 * kv) if every_bias or _BIASED.get(kind) else 0
    biases += hidden if every_bias else 0
    biases += (2 * mlp + hidden) if config.get("mlp_bias") else 0
    norms = 2 * hidden + (2 * head_dim if kind == "qwen3" else 0)
    return ModelShape(
        layers=layers,
        hidden=hidden,
        intermediate=mlp,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        tied=bool(config.get("tie_word_embeddings", False)),
        layer_parameters=hidden * (2 * q + 2 * kv) + 3 * hidden * mlp + biases + norms,
        window=context_length(config),
        weight_bits=weight_bits(config.get(KEY) or {}),
    )


def _size(config: Mapping[str, Any], name: str, without: int | None = None) -> int:
    """A positive whole number of the config; `without` stands in where it has none."""
    value = config.get(name)
    if value is None and without is not None:
        return without
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**53:
        return value
    found = f"{name} is {value!r:.60}" if name in config else f"it says nothing of {name!r}"
    raise ConfigError(
        f"memory cannot be planned from this config ({found}); this works for decoders of the "
        "Llama kind (Llama, Mistral, Qwen2, Qwen3, InternLM2)."
    )


def read_shape(model: str) -> ModelShape:
    """The shape of a folder, of one of the paper's models (LLaMA3.1-8B or its hub id), of
    an embedded one, or of a hub id.

    The paper's models need no download: their published configs are part of this package.

    Raises:
        CheckpointError: no config there, the hub does not give it, or an embedded model that was
            not fetched.
        ConfigError: see `shape_of`.
    """
    named = is_embedded(model) or re.fullmatch(r"[^/\s]+/[^/\s]+", model)
    folder = Path(model_path(model) if named else model).expanduser()
    if folder.is_dir():
        return shape_of(_read(folder / "config.json"))
    paper = find_paper_model(model)
    known = published_config(paper.hub if paper else model)
    if known is not None:
        return shape_of(known)
    return shape_of(_from_hub(model))


def published_config(hub_id: str) -> dict[str, Any] | None:
    """The config.json of one of the paper's models, its base form's for a chat form; else None."""
    return CONFIGS.get(hub_id) or CONFIGS.get(_FORM.sub(r"\3", hub_id))


def _read(file: Path) -> dict[str, Any]:
    try:
        config = read_object(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{file} cannot be read ({error}); give the folder of a checkpoint, or a hub id."
        ) from error
    return {"tie_word_embeddings": False, **config}


def _from_hub(model: str) -> dict[str, Any]:
    from transformers import AutoConfig

    if model.startswith((".", "/", "~")) or os.sep not in model:
        raise CheckpointError(
            f"{model} is no folder; give the folder of a checkpoint, one of the paper's models as "
            "LLaMA3.1-8B, or a hub id as owner/name."
        )
    fetch_config(model)
    try:
        config: dict[str, Any] = AutoConfig.from_pretrained(model).to_dict()
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0][:200]
        raise CheckpointError(
            f"{model} is neither a folder here nor could its config be fetched ({first}); check "
            "the name and the network, or give a local folder."
        ) from error
    return config
