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
    num_experts_per_tok=2, moe_k=2, n_group=1, topk_group=1, n_shared_experts=1,
    q_lora_rank=32, kv_lora_rank=32, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=16,
    vocab_size=VOCABULARY, is_decoder=True,
    pad_token_id=0, bos_token_id=1, eos_token_id=2,
    initializer_range=0.3,  # attention far from uniform
)  # fmt: skip
DROP = object()  # a size that the family's configuration does not take
ROPE = dict(rope_type="default", rope_theta=10000.0)
# what a family needs besides
OWN: dict[str, dict[str, Any]] = {
    "cohere2": dict(num_hidden_layers=4, sliding_window=24),
    "cohere2_moe": dict(num_hidden_layers=4, sliding_window=24),
    "cohere_compass_text": dict(rope_parameters=dict(full_attention=ROPE, sliding_attention=ROPE)),
    "afmoe": dict(num_hidden_layers=4, sliding_window=24),
    "exaone_moe": dict(num_hidden_layers=4, sliding_window=24),
    "kolibri1": dict(num_hidden_layers=6, sliding_window=24),
    "dbrx": dict(attn_config=dict(kv_n_heads=2, rope_theta=10000.0, clip_qkv=8.0),
        ffn_config=dict(ffn_hidden_size=48, moe_num_experts=4, moe_top_k=2)),
    "exaone4": dict(num_hidden_layers=4, sliding_window=24, sliding_window_pattern=4),
    "falcon": dict(head_dim=DROP, alibi=False, multi_query=True),
    "gemma2": dict(sliding_window=24),
    "gemma3_text": dict(num_hidden_layers=6, sliding_window=24),
    "gemma3n_text": dict(num_hidden_layers=4, num_kv_shared_layers=2, sliding_window=24,
        layer_types=["sliding_attention", "full_attention"] * 2, vocab_size_per_layer_input=97,
        hidden_size_per_layer_input=16, laurel_rank=8, activation_sparsity_pattern=[0.0] * 4),
    "gpt_neo": dict(attention_types=[[["global", "local"], 1]]),
    "granitemoehybrid": dict(layer_types=["mamba", "attention"]),
    "lfm2": dict(layer_types=["conv", "full_attention"]),
    "lfm2_moe": dict(layer_types=["conv", "full_attention"]),
    "mamba2": dict(num_heads=8),
    "mimo_v2_flash": dict(v_head_dim=DROP),
    "ministral": dict(sliding_window=24, layer_types=["full_attention", "sliding_attention"]),
    "mistral": dict(sliding_window=None),
    "olmo3": dict(num_hidden_layers=4, sliding_window=24),
    "prophetnet": dict(num_hidden_layers=DROP),
    "smollm3": dict(num_hidden_layers=4),
    "transfo-xl": dict(max_position_embeddings=DROP),
    "xlm-prophetnet": dict(num_hidden_layers=DROP),
    "xlnet": dict(max_position_embeddings=DROP),
    "zaya": dict(num_experts_per_tok=1),
}  # fmt: skip


def tiny_config(family: str, **own: Any) -> Any:
    kind = CONFIG_MAPPING[family]
    standard = kind()
    sizes = {name: value for name, value in SIZES.items() if hasattr(standard, name)}
    own = {**OWN.get(family, {}), **own}
    return kind(**{name: value for name, value in (sizes | own).items() if value is not DROP})


MOST = 6_000_000  # parameters


def tiny_family(family: str, dtype: torch.dtype = torch.float32, **own: Any) -> Any:
    """In eval mode, weights from seed 0. On the meta device where no tiny one can be made: a
    composite of several models, or sizes that depend on each other."""
    try:
        config = tiny_config(family, **own)
        if parameters_of(config) > MOST:
            raise ValueError("not tiny")
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError):
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(CONFIG_MAPPING[family]())
    with torch.no_grad():
        for parameter in model.parameters():  # norms, biases and the like begin as ones and zeros
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.to(dtype).eval()


def parameters_of(config: Any) -> int:
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except NotImplementedError:  # computes with its weights while it is made
        return 0
    return sum(parameter.numel() for parameter in model.parameters())
