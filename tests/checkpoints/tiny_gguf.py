"""A tiny Llama written as GGUF by the test's own account of that format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from tiny_tokenizers import CHATML, tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

HEADS, KV_HEADS, HIDDEN, FFN, LAYERS, THETA = 4, 2, 64, 96, 2, 5000.0


def tiny_llama(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=HIDDEN, intermediate_size=FFN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=256,
        rope_theta=THETA, rms_norm_eps=1e-5, initializer_range=0.2, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():  # values that bfloat16 holds exactly
            weight.copy_(weight.bfloat16())
    return model


def write_gguf(path: Path, architecture: str = "llama", pre: str = "smollm") -> LlamaForCausalLM:
    """Write the file; returns the model that it holds."""
    import gguf

    bpe = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in bpe["merges"]]
    model = tiny_llama(len(tokens))
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(THETA)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(
        [3 if token.startswith("<") and len(token) > 2 else 1 for token in tokens]
    )
    writer.add_token_merges(merges)
    writer.add_bos_token_id(3)
    writer.add_eos_token_id(4)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(4)
    writer.add_chat_template(CHATML)
    names = {
        "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    writer.add_tensor("output_norm.weight", state["model.norm.weight"])
    for i in range(LAYERS):
        for ours, theirs in names.items():
            tensor = state[f"model.layers.{i}.{ours}.weight"]
            if theirs in ("attn_q", "attn_k"):
                tensor = interleave(tensor, HEADS if theirs == "attn_q" else KV_HEADS)
            writer.add_tensor(f"blk.{i}.{theirs}.weight", tensor)
    packed, embedding = q8_0(state["model.embed_tokens.weight"])
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("token_embd.weight", packed, raw_dtype=kind)
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
