"""The paper's nine models, base and chat forms: the table that configs/models/*.py follow from.

Sources: LLaMA 3.x: Grattafiori et al., 2024, arXiv 2407.21783 (gated: accept the licence on the
model's page, then `hf auth login`). Mistral-v0.3: Jiang et al., 2023, arXiv 2310.06825; without the
sliding window of v0.1. InternLM2.5: Cai et al., 2024, arXiv 2403.17297; loaded in the Llama layout,
without remote code. Qwen2: Yang et al., 2024, arXiv 2407.10671; the window is the native one, as
the paper counts it (131,072 with YaRN; the config.json of the base 1.5B says 131,072).
"""

from __future__ import annotations

from typing import NamedTuple


class PaperModel(NamedTuple):
    """One checkpoint; `chat` forms answer in their own chat turn."""

    abbr: str
    hub: str
    window: int  # trained, tokens
    billions: float  # parameters
    chat: bool = False


PAPER_MODELS = {
    "llama3_8b": PaperModel("LLaMA3-8B", "meta-llama/Meta-Llama-3-8B", 8192, 8.03),
    "llama3_8b_instruct": PaperModel(
        "LLaMA3-8B-Instruct", "meta-llama/Meta-Llama-3-8B-Instruct", 8192, 8.03, True
    ),
    "llama3_1_8b": PaperModel("LLaMA3.1-8B", "meta-llama/Llama-3.1-8B", 131072, 8.03),
    "llama3_1_8b_instruct": PaperModel(
        "LLaMA3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct", 131072, 8.03, True
    ),
    # 141 GB in 16 bits: two GPUs of 141 GB or four of 80 GB; Qwen2-72B likewise
    "llama3_1_70b": PaperModel("LLaMA3.1-70B", "meta-llama/Llama-3.1-70B", 131072, 70.6),
    "llama3_1_70b_instruct": PaperModel(
        "LLaMA3.1-70B-Instruct", "meta-llama/Llama-3.1-70B-Instruct", 131072, 70.6, True
    ),
    "llama3_2_3b": PaperModel("LLaMA3.2-3B", "meta-llama/Llama-3.2-3B", 131072, 3.21),
    "llama3_2_3b_instruct": PaperModel(
        "LLaMA3.2-3B-Instruct", "meta-llama/Llama-3.2-3B-Instruct", 131072, 3.21, True
    ),
    "mistral_v0_3_7b": PaperModel("Mistral-v0.3-7B", "mistralai/Mistral-7B-v0.3", 32768, 7.25),
    "mistral_v0_3_7b_instruct": PaperModel(
        "Mistral-v0.3-7B-Instruct", "mistralai/Mistral-7B-Instruct-v0.3", 32768, 7.25, True
    ),
    "internlm2_5_7b": PaperModel("InternLM2.5-7B", "internlm/internlm2_5-7b", 32768, 7.74),
    # made for a million tokens: RoPE base 50,000,000, dynamic scaling 2.5 beyond its window
    "internlm2_5_7b_chat_1m": PaperModel(
        "InternLM2.5-7B-Chat-1M", "internlm/internlm2_5-7b-chat-1m", 262144, 7.74, True
    ),
    "qwen2_1_5b": PaperModel("Qwen2-1.5B", "Qwen/Qwen2-1.5B", 32768, 1.54),
    "qwen2_1_5b_instruct": PaperModel(
        "Qwen2-1.5B-Instruct", "Qwen/Qwen2-1.5B-Instruct", 32768, 1.54, True
    ),
    "qwen2_7b": PaperModel("Qwen2-7B", "Qwen/Qwen2-7B", 32768, 7.62),
    "qwen2_7b_instruct": PaperModel(
        "Qwen2-7B-Instruct", "Qwen/Qwen2-7B-Instruct", 32768, 7.62, True
    ),
    "qwen2_72b": PaperModel("Qwen2-72B", "Qwen/Qwen2-72B", 32768, 72.7),
    "qwen2_72b_instruct": PaperModel(
        "Qwen2-72B-Instruct", "Qwen/Qwen2-72B-Instruct", 32768, 72.7, True
    ),
}


def find_paper_model(name: str) -> PaperModel | None:
    """By its abbreviation (LLaMA3.1-8B), its key (llama3_1_8b) or its hub id."""
    for key, model in PAPER_MODELS.items():
        if name in (key, model.abbr, model.hub):
            return model
    return None
