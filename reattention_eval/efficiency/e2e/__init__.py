"""TTFT, TPOT and peak memory of whole prompts, beside the fastest full attention at hand."""
