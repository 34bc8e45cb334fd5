"""LongBench v2's 503 questions, prompts cut to the 120,000 tokens of the benchmark's own runs."""

plan = dict(benchmark="longbench_v2", lengths=[120000])
