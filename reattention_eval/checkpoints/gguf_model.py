"""A Llama or Qwen2 in GGUF -> a plain Hugging Face folder that transformers 4.57 and 5.x both load.

Read with the `gguf` library and written with `tokenizers` and `safetensors`, so the outcome does
not depend on the version of transformers. Weights are stored in bfloat16: rounding them moves each
tensor by 0.14 % (relative norm), a fiftieth of what 4-bit quantisation already did, and every
machine then computes with the same weights, whether in bfloat16 or in float32.
"""

from __future__ import annotations

import errno
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from reattention_eval.checkpoints.gguf_tokenizer import PRE_TOKENIZERS, write_tokenizer
from reattention_eval.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from gguf import GGUFReader, ReaderTensor


class _Architecture(NamedTuple):
    """What sets one architecture apart from the others, here and in GGUF."""

    model_class: str
    interleaved: bool  # GGUF pairs the rotary dimensions (2i, 2i + 1), not (i, i + head_dim / 2)
    settings: Mapping[str, Any]


_ARCHITECTURES = {
    "llama": _Architecture("LlamaForCausalLM", True, {"attention_bias": False, "mlp_bias": False}),
    "qwen2": _Architecture("Qwen2ForCausalLM", False, {"use_sliding_window": False}),
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_SHARD_BYTES = 1 << 30  # in memory at once
_PIECE_VALUES = 1 << 20  # of one thread at once
_OTHER = "give the Hugging Face folder of the model instead"


def convert_gguf(source: Path, folder: Path) -> None:
    """Write config.json, generation_config.json, tokenizer files and weights to `folder`.

    Weights are dequantised on all cores and written in shards of 1 GiB, one in memory at a time.
    Matrices that the file stores twice (embedding and output, each quantised by itself) stay two.

    Raises:
        CheckpointError: `gguf` is not installed; the file is damaged, no Llama or Qwen2, or scales
            its RoPE; its tokenizer is no byte-level BPE of a kind in `PRE_TOKENIZERS`.
    """
    reader = _read(source)
    meta = {name: field.contents() for name, field in reader.fields.items()}
    _check_kind(meta, source.name)
    config = _config(meta, tied=all(tensor.name != "output.weight" for tensor in reader.tensors))
    _write_json(folder / "config.json", config)
    special = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if special["pad_token_id"] != special["eos_token_id"]:  # a model that pads has nothing to say
        special["eos_token_id"] = [special["eos_token_id"], special["pad_token_id"]]
    _write_json(folder / "generation_config.json", special)
    write_tokenizer(meta, folder, config["max_position_embeddings"])
    _write_weights(reader, config, folder)


def check_gguf_library() -> None:
    """Raise CheckpointError if `gguf` is not installed."""
    if find_spec("gguf") is None:
        raise CheckpointError(
            "converting an embedded model needs the gguf library; install it: pip install gguf"
        )


def _read(source: Path) -> GGUFReader:
    check_gguf_library()
    from gguf import GGUFReader

    try:
        return GGUFReader(source)
    except (ValueError, OSError, IndexError) as error:
        raise CheckpointError(
            f"{source} is not a whole GGUF file ({error}); delete it and fetch it again."
        ) from error


def _check_kind(meta: Mapping[str, Any], name: str) -> None:
    architecture = meta.get("general.architecture")
    kind, pre = (meta.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    if architecture not in _ARCHITECTURES or kind != "gpt2" or pre not in PRE_TOKENIZERS:
        raise CheckpointError(
            f"{name} holds a {architecture} model with a {kind} tokenizer ({pre}); converted are "
            f"{' and '.join(_ARCHITECTURES)} with a gpt2 tokenizer "
            f"({' or '.join(PRE_TOKENIZERS)}): {_OTHER}."
        )
    scaling = meta.get(f"{architecture}.rope.scaling.type", "none")
    if scaling != "none":
        raise CheckpointError(
            f"{name} scales its RoPE ({scaling}), which is not converted; {_OTHER}."
        )


def _config(meta: Mapping[str, Any], *, tied: bool) -> dict[str, Any]:
    model_type = meta["general.architecture"]
    architecture = _ARCHITECTURES[model_type]
    own = {key.removeprefix(f"{model_type}."): value for key, value in meta.items()}
    heads = own["attention.head_count"]
    theta = own["rope.freq_base"]
    return {
        "architectures": [architecture.model_class],
        "model_type": model_type,
        **architecture.settings,
        "attention_dropout": 0.0,
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
        "head_dim": own.get("rope.dimension_count", own["embedding_length"] // heads),
        "hidden_act": "silu",
        "hidden_size": own["embedding_length"],
        "initializer_range": 0.02,
        "intermediate_size": own["feed_forward_length"],
        "max_position_embeddings": own["context_length"],
        "num_attention_heads": heads,
        "num_hidden_layers": own["block_count"],
        "num_key_value_heads": own["attention.head_count_kv"],
        "rms_norm_eps": round(own["attention.layer_norm_rms_epsilon"], 12),
        # transformers 4 reads the first (and would silently take 10,000), 5 the second
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        # the oldest that reads this; without one 4.57 takes large vocabularies for Mistral's
        "transformers_version": "4.57.0",
        "use_cache": True,
        "vocab_size": len(meta["tokenizer.ggml.tokens"]),
    }


def _write_weights(reader: GGUFReader, config: Mapping[str, Any], folder: Path) -> None:
    import torch
    from huggingface_hub import split_torch_state_dict_into_shards

    packed = {_hf_name(tensor.name): tensor for tensor in reader.tensors}
    shapes = {
        name: torch.empty(*map(int, reversed(tensor.shape)), dtype=torch.bfloat16, device="meta")
        for name, tensor in packed.items()
    }
    plan = split_torch_state_dict_into_shards(shapes, max_shard_size=_SHARD_BYTES)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for file, names in plan.filename_to_tensors.items():
            shard = {name: torch.empty_like(shapes[name], device="cpu") for name in names}
            tasks = [
                pool.submit(_dequantize, *piece)
                for name in names
                for piece in _pieces(packed[name], shard[name])
            ]
            for task in tasks:
                task.result()
            if _ARCHITECTURES[config["model_type"]].interleaved:
                _unpermute(shard, config)
            _save(shard, folder / file)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        _write_json(folder / "model.safetensors.index.json", index)


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # how the library says what the system said
        number = re.search(r"(?:os error|code:) (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error), str(path)) from error


def _hf_name(name: str) -> str:
    parts = name.split(".")
    try:
        if parts[0] == "blk":
            return f"model.layers.{parts[1]}.{_LAYER[parts[2]]}.{parts[3]}"
        return f"{_TOP[parts[0]]}.{parts[1]}"
    except (KeyError, IndexError) as error:
        raise CheckpointError(
            f"the GGUF file holds the tensor {name}, which is converted for no kind of model; "
            f"{_OTHER}."
        ) from error


def _pieces(packed: ReaderTensor, out: torch.Tensor) -> Iterator[tuple[Any, Any, torch.Tensor]]:
    """(bytes, their type, where their values go), rows that make up a piece at a time."""
    rows = packed.data.reshape(len(packed.data), -1)
    values = out.view(len(rows), -1)
    step = max(1, _PIECE_VALUES // values.shape[1])
    for start in range(0, len(rows), step):
        yield rows[start : start + step], packed.tensor_type, values[start : start + step]


def _dequantize(rows: np.ndarray, kind: Any, out: torch.Tensor) -> None:
    import torch
    from gguf.quants import dequantize

    # as one row: gguf would loop over groups of 16 in Python
    values = np.asarray(dequantize(rows.reshape(1, -1), kind), dtype=np.float32)
    with warnings.catch_warnings():  # the file's own values are mapped, read-only
        warnings.simplefilter("ignore")
        out.copy_(torch.from_numpy(values).view(out.shape))


def _unpermute(weights: dict[str, torch.Tensor], config: Mapping[str, Any]) -> None:
    """Rotary pairs (2i, 2i + 1) of a head's rows become (i, i + head_dim / 2)."""
    heads = {
        "q_proj.weight": config["num_attention_heads"],
        "k_proj.weight": config["num_key_value_heads"],
    }
    for name, weight in weights.items():
        if count := heads.get(".".join(name.split(".")[-2:])):
            rows, columns = weight.shape  # [heads * head_dim, hidden]
            pairs = weight.view(count, rows // count // 2, 2, columns)
            weights[name] = pairs.transpose(1, 2).reshape(rows, columns).contiguous()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
