"""What rows of tables and plots are called."""

from __future__ import annotations

from pathlib import Path

from written_run import write_cell

from reattention_eval.report.labels import method_labels
from reattention_eval.report.run import read_run


def test_a_plain_label_is_the_default_and_what_follows_from_the_budget(tmp_path: Path) -> None:
    """What a row says it does otherwise, None too where that is not the default."""
    for last in (48, None):
        for name in ("reattention_plus", "reattention"):
            write_cell(tmp_path, (name, 64), ["Paris"], settings={"last_tokens": last, "top_k": 4})
    scopes = [(4096, 32, 127), (1024, 32, 223), (4096, 8, 508), (1024, 8, 892)]
    for local, size, spans in scopes:
        scope = {"global_size": 32, "local_size": local, "span_size": size, "max_spans": spans}
        write_cell(tmp_path, ("reattention", 8192), ["Paris"], settings={**scope, "score": "qk"})
    write_cell(
        tmp_path, ("reattention", 8192), ["Paris"],
        settings={"local_size": 4096, "span_size": 32, "max_spans": 127, "score": "qkv_l1"},
    )  # fmt: skip
    assert sorted(method_labels(read_run(tmp_path)).values()) == [
        "reattention 64",
        "reattention 64 (last_tokens=48)",
        "reattention 8,192",
        "reattention 8,192 (local_size=1024, max_spans=223)",
        "reattention 8,192 (local_size=1024, span_size=8, max_spans=892)",
        "reattention 8,192 (score=qkv_l1)",
        "reattention 8,192 (span_size=8)",
        "reattention_plus 64",
        "reattention_plus 64 (last_tokens=None)",
    ]
