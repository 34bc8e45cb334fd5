"""A tiny Llama or Qwen2 written as GGUF by the test's own account of that format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_tokenizers import CHATML, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

HEADS, KV_HEADS, HIDDEN, FFN, LAYERS, THETA = 4, 2, 64, 96, 2, 5000.0


def tiny_model(kind: str, vocabulary: int) -> Any:
    """With biases on q, k and v and a head of its own where `kind` is qwen2."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=vocabulary, hidden_size=HIDDEN, intermediate_size=FFN,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS,
        max_position_embeddings=256, rope_theta=THETA, rms_norm_eps=1e-5, initializer_range=0.2,
        tie_word_embeddings=kind == "llama",
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():  # values that bfloat16 holds exactly
            if name.endswith("bias"):
                weight.normal_()
            weight.copy_(weight.bfloat16())
    return model


def write_gguf(
    path: Path, architecture: str = "llama", pre: str | None = None, scaling: str | None = None
) -> Any:
    """Write the file; returns the model that it holds."""
    import gguf

    kind = "qwen2" if architecture == "qwen2" else "llama"
    bpe = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in bpe["merges"]]
    types = [3 if token.startswith("<") and len(token) > 2 else 1 for token in tokens]
    if kind == "qwen2":  # a token that is not special, and padding of the embedding
        tokens, types = [*tokens, "<tool_call>", "[PAD0]", "[PAD1]"], [*types, 4, 5, 5]
    model = tiny_model(kind, len(tokens))
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(THETA)
    if scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling))
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre or {"llama": "smollm"}.get(kind, kind))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    if kind == "llama":
        writer.add_rope_dimension_count(HIDDEN // HEADS)
        writer.add_bos_token_id(3)
        writer.add_unk_token_id(0)
        writer.add_pad_token_id(4)
    else:
        writer.add_bos_token_id(0)
        writer.add_pad_token_id(0)
    writer.add_eos_token_id(4)
    writer.add_chat_template(CHATML)
    names = {
        "input_layernorm.weight": "attn_norm.weight",
        "self_attn.q_proj.weight": "attn_q.weight", "self_attn.q_proj.bias": "attn_q.bias",
        "self_attn.k_proj.weight": "attn_k.weight", "self_attn.k_proj.bias": "attn_k.bias",
        "self_attn.v_proj.weight": "attn_v.weight", "self_attn.v_proj.bias": "attn_v.bias",
        "self_attn.o_proj.weight": "attn_output.weight",
        "post_attention_layernorm.weight": "ffn_norm.weight",
        "mlp.gate_proj.weight": "ffn_gate.weight", "mlp.up_proj.weight": "ffn_up.weight",
        "mlp.down_proj.weight": "ffn_down.weight",
    }  # fmt: skip
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    writer.add_tensor("output_norm.weight", state["model.norm.weight"])
    if kind == "qwen2":
        writer.add_tensor("output.weight", state["lm_head.weight"])
    for i in range(LAYERS):
        for ours, theirs in names.items():
            tensor = state.get(f"model.layers.{i}.{ours}")
            if tensor is None:
                continue
            if kind == "llama" and theirs in ("attn_q.weight", "attn_k.weight"):
                tensor = interleave(tensor, HEADS if theirs == "attn_q.weight" else KV_HEADS)
            writer.add_tensor(f"blk.{i}.{theirs}", tensor)
    packed, embedding = q8_0(state["model.embed_tokens.weight"])
    writer.add_tensor("token_embd.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.from_numpy(embedding).bfloat16())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """GGUF's row order: rotary partners i and i + d/2 of a head become rows 2i and 2i + 1."""
    d = weight.shape[0] // heads
    rows = [
        h * d + i + half * (d // 2) for h in range(heads) for i in range(d // 2) for half in (0, 1)
    ]
    return np.ascontiguousarray(weight[rows])


def q8_0(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of 32 values: a float16 scale, then 32 signed bytes; and the values they stand for."""
    blocks = weight.reshape(-1, 32)
    scale = (np.abs(blocks).max(axis=1, keepdims=True) / 127).astype(np.float16)
    codes = np.round(blocks / scale.astype(np.float32)).astype(np.int8)
    values = (codes * scale.astype(np.float32)).reshape(weight.shape)
    packed = np.concatenate([scale.view(np.uint8), codes.view(np.uint8)], axis=1)  # [n, 34]
    return packed.reshape(weight.shape[0], -1), values
