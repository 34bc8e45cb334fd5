"""A Llama model in GGUF -> a plain Hugging Face folder that transformers 4.57 and 5.x both load.

Read with the `gguf` library and written with `tokenizers` and `safetensors`, so the outcome does
not depend on the version of transformers. Weights are stored in bfloat16: rounding them moves each
tensor by 0.14 % (relative norm), a fiftieth of what 4-bit quantisation already did, and every
machine then computes with the same weights, whether in bfloat16 or in float32.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reattention_eval.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from gguf import GGUFReader
    from tokenizers import Tokenizer

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
_CONTROL_TOKEN = 3  # gguf.TokenType.CONTROL


def convert_llama_gguf(source: Path, folder: Path) -> None:
    """Write config.json, generation_config.json, tokenizer files and model.safetensors to `folder`.

    Raises:
        CheckpointError: `gguf` is not installed, the file is damaged, not a Llama, or its tokenizer
            is not a byte-level BPE with the "smollm" pre-tokenizer.
    """
    reader = _read(source)
    meta = {name: field.contents() for name, field in reader.fields.items()}
    kinds = [meta.get(f"{name}") for name in ("general.architecture", "tokenizer.ggml.model")]
    if kinds != ["llama", "gpt2"] or meta.get("tokenizer.ggml.pre") != "smollm":
        raise CheckpointError(
            f"{source.name} holds a {kinds[0]} model with a {kinds[1]} tokenizer "
            f"({meta.get('tokenizer.ggml.pre')}); only Llama with a SmolLM tokenizer is converted: "
            "give the Hugging Face folder of the model instead."
        )
    config = _config(meta, tied=all(tensor.name != "output.weight" for tensor in reader.tensors))
    _write_json(folder / "config.json", config)
    special = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(folder / "generation_config.json", special)
    _tokenizer(meta).save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(meta))
    (folder / "chat_template.jinja").write_text(meta["tokenizer.chat_template"], encoding="utf-8")

    from safetensors.torch import save_file

    save_file(_weights(reader, config), folder / "model.safetensors", metadata={"format": "pt"})


def _read(source: Path) -> GGUFReader:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise CheckpointError(
            "converting the embedded model needs the gguf library; install it: pip install gguf"
        ) from error
    try:
        return GGUFReader(source)
    except (ValueError, OSError, IndexError) as error:
        raise CheckpointError(
            f"{source} is not a whole GGUF file ({error}); delete it and fetch it again."
        ) from error


def _config(meta: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    heads = meta["llama.attention.head_count"]
    theta = meta["llama.rope.freq_base"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"],
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
        "pad_token_id": meta["tokenizer.ggml.padding_token_id"],
        "head_dim": meta.get("llama.rope.dimension_count", meta["llama.embedding_length"] // heads),
        "hidden_act": "silu",
        "hidden_size": meta["llama.embedding_length"],
        "initializer_range": 0.02,
        "intermediate_size": meta["llama.feed_forward_length"],
        "max_position_embeddings": meta["llama.context_length"],
        "mlp_bias": False,
        "num_attention_heads": heads,
        "num_hidden_layers": meta["llama.block_count"],
        "num_key_value_heads": meta["llama.attention.head_count_kv"],
        "rms_norm_eps": round(meta["llama.attention.layer_norm_rms_epsilon"], 12),
        # transformers 4 reads the first (and would silently take 10,000), 5 the second
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": len(meta["tokenizer.ggml.tokens"]),
    }


def _tokenizer(meta: dict[str, Any]) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = meta["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # GGUF only names this rule ("smollm"); without it white space before digits joins
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = meta["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind == _CONTROL_TOKEN
        ]
    )
    return tokenizer


def _tokenizer_config(meta: dict[str, Any]) -> dict[str, Any]:
    tokens = meta["tokenizer.ggml.tokens"]
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    special = {
        f"{name}_token": tokens[meta[f"tokenizer.ggml.{key}_token_id"]]
        for name, key in names.items()
    }
    return {
        # the name that both majors know
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": meta["llama.context_length"],
        **special,
    }


def _weights(reader: GGUFReader, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    import torch
    from gguf.quants import dequantize

    weights = {}
    for tensor in reader.tensors:
        array = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        name = _hf_name(tensor.name)
        if name.endswith("q_proj.weight"):
            array = _unpermute(array, config["num_attention_heads"])
        elif name.endswith("k_proj.weight"):
            array = _unpermute(array, config["num_key_value_heads"])
        weights[name] = torch.from_numpy(np.ascontiguousarray(array)).to(torch.bfloat16)
    return weights


def _hf_name(name: str) -> str:
    parts = name.split(".")
    try:
        if parts[0] == "blk":
            return f"model.layers.{parts[1]}.{_LAYER[parts[2]]}.{parts[3]}"
        return f"{_TOP[parts[0]]}.{parts[1]}"
    except (KeyError, IndexError) as error:
        raise CheckpointError(
            f"the GGUF file holds the tensor {name}, which a Llama does not have; "
            "give the Hugging Face folder of the model instead."
        ) from error


def _unpermute(array: np.ndarray, heads: int) -> np.ndarray:
    """GGUF pairs the rotary dimensions (2i, 2i+1); transformers pairs (i, i + head_dim / 2)."""
    rows, columns = array.shape  # [heads * head_dim, hidden]
    pairs = array.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
