"""A tiny random model of every decoder family that the installed transformers knows."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

FAMILIES = list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
VOCABULARY = 97
SIZES: dict[str, Any] = dict(
    hidden_size=64, n_embd=64, d_model=64, embedding_size=64, word_embed_proj_dim=64,
    intermediate_size=48, ffn_dim=48, n_inner=48, ffn_hidden_size=48, decoder_ffn_dim=48,
    encoder_ffn_dim=48, moe_intermediate_size=32, shared_expert_intermediate_size=32,
    num_hidden_layers=2, n_layer=2, n_layers=2, num_layers=2, decoder_layers=2, encoder_layers=1,
    num_attention_heads=4, n_head=4, n_heads=4, num_heads=4, decoder_attention_heads=4,
    encoder_attention_heads=4, num_key_value_heads=2, head_dim=16, kv_channels=16,
    max_position_embeddings=512, n_positions=512, n_ctx=512, max_seq_len=512,
    num_experts=4, num_local_experts=4, n_routed_experts=4, moe_num_experts=4,
    num_experts_per_tok=2, moe_k=2, vocab_size=VOCABULARY, is_decoder=True,
    pad_token_id=0, bos_token_id=1, eos_token_id=2,
    initializer_range=0.3,  # attention far from uniform
)  # fmt: skip
# what a family needs besides
DROP = object()  # a size that the family's configuration does not take
OWN: dict[str, dict[str, Any]] = {
    "cohere2": dict(num_hidden_layers=4, sliding_window=24),
    "exaone4": dict(num_hidden_layers=4, sliding_window=24, sliding_window_pattern=4),
    "falcon": dict(head_dim=DROP, alibi=False, multi_query=True),
    "gemma3_text": dict(num_hidden_layers=6, sliding_window=24),
    "gemma2": dict(sliding_window=24),
    "gpt_neo": dict(attention_types=[[["global", "local"], 1]]),
    "dots1": dict(n_group=1, topk_group=1, n_shared_experts=1),
    "deepseek_v2": dict(q_lora_rank=32, kv_lora_rank=32, qk_rope_head_dim=8, qk_nope_head_dim=8,
        v_head_dim=16, n_shared_experts=1),
    "mistral": dict(sliding_window=None),
    "ministral": dict(sliding_window=None, layer_types=["full_attention"] * 2),
    "olmo3": dict(num_hidden_layers=4, sliding_window=24),
    "smollm3": dict(num_hidden_layers=4),
}  # fmt: skip


def tiny_config(family: str, **own: Any) -> Any:
    kind = CONFIG_MAPPING[family]
    standard = kind()
    sizes = {name: value for name, value in SIZES.items() if hasattr(standard, name)}
    own = {**OWN.get(family, {}), **own}
    return kind(**{name: value for name, value in (sizes | own).items() if value is not DROP})


def tiny_family(family: str, dtype: torch.dtype = torch.float32, **own: Any) -> Any:
    """In eval mode, weights from seed 0; attention as transformers' PyTorch form or eager."""
    config = tiny_config(family, **own)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).to(dtype).eval()
