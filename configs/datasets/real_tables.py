"""RULER, L-Eval and LongBench for one model with a window of 32K: what a GPU does in hours.

RULER: all 13 tasks to the window, n = 20; one task or two of each kind at 64K and 128K, n = 10; the
needles of RULER at 256K. L-Eval and LongBench: 20 questions a task, drawn with a seed from all
(REATTENTION_SAMPLES: another number); tasks whose files are not there are left out with
REATTENTION_ONLY_TASKS.
"""

ruler = [
    dict(benchmark="ruler", tasks="all", lengths=[4096, 8192, 16384, 32768], samples=20),
    dict(
        benchmark="ruler",
        tasks=["niah_single_2", "niah_multikey_1", "niah_multikey_3", "vt", "fwe", "qa_1"],
        lengths=[65536, 131072],
        samples=10,
        haystack="long",
    ),
    dict(
        benchmark="ruler",
        tasks=["niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1",
               "niah_multikey_2", "niah_multikey_3", "niah_multivalue", "niah_multiquery"],
        lengths=[262144],
        samples=10,
        haystack="long",
    ),
]  # fmt: skip

leval = [
    dict(
        benchmark="leval",
        lengths=[31500],
        samples=20,
        seed=0,
        tasks=["tpo", "gsm100", "quality", "coursera", "topic_retrieval_longchat", "sci_fi",
               "scientific_qa", "multidoc_qa", "natural_question", "financial_qa",
               "legal_contract_qa", "paper_assistant", "news_summ", "gov_report_summ",
               "patent_summ", "tv_show_summ", "meeting_summ", "review_summ"],
    )
]  # fmt: skip

longbench = [
    dict(
        benchmark="longbench",
        lengths=[31500],
        samples=20,
        seed=0,
        tasks=["multi_news", "multifieldqa_zh"],
    )
]
