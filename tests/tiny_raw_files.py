"""Small files in the raw formats of LongBench v2 (one JSON array) and OpenAI's MRCR (Parquet)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

STORY = "The dog runs over the hill. The fox reads an essay and thinks of the result. "
CLASSES = [("easy", "short"), ("hard", "medium"), ("hard", "long"), ("easy", "short")]


def write_longbench_v2(folder: Path, repeat: int = 12) -> list[dict[str, Any]]:
    """`folder`/longbench_v2/data.json with every field of the real one; its rows."""
    rows = [
        {
            "_id": f"66f{i:021x}", "domain": "Single-Document QA", "sub_domain": "Literary",
            "difficulty": difficulty, "length": length,
            "question": f" Who reads essay {i}? ", "choice_A": "The dog", "choice_B": "The fox\n",
            "choice_C": "The hill", "choice_D": "Nobody", "answer": "ABCD"[i],
            "context": f"\nDocument {i}. It costs $C_A$. " + STORY * repeat,
        }
        for i, (difficulty, length) in enumerate(CLASSES)
    ]  # fmt: skip
    (folder / "longbench_v2").mkdir(parents=True)
    text = json.dumps(rows, ensure_ascii=False, indent=4)
    (folder / "longbench_v2" / "data.json").write_text(text, encoding="utf-8")
    return rows


def mrcr_row(i: int, needles: int, words: int, mark: str) -> dict[str, Any]:
    """A conversation of some `words` words in which one request stands `needles` times."""
    turns: list[dict[str, str]] = []
    poems = [f"Poem {n} of {i}. " + STORY * (words // needles // 16) for n in range(needles)]
    for poem in poems:
        turns.append({"role": "user", "content": "write a poem about tapirs"})
        turns.append({"role": "assistant", "content": poem})
    ask = (
        f"Prepend {mark} to the 2nd (1 indexed) poem about tapirs. Do not include any other text "
        "in your response."
    )
    turns.append({"role": "user", "content": ask})
    prompt = json.dumps(turns)
    return {
        "prompt": prompt, "answer": mark + poems[1], "random_string_to_prepend": mark,
        "n_needles": needles, "desired_msg_index": 3, "total_messages": len(turns),
        "n_chars": sum(len(turn["content"]) for turn in turns), "date_added": "04-12-2025",
    }  # fmt: skip


def write_mrcr(folder: Path) -> dict[int, list[dict[str, Any]]]:
    """`folder`/mrcr/{2,4,8}needle_{0,1}.parquet; rows by the number of needles, of some 5,000 and
    6,000 words and of 10,000, in no order."""
    (folder / "mrcr").mkdir(parents=True)
    found = {}
    for needles in (2, 4, 8):
        rows = [
            mrcr_row(i, needles, words, mark)
            for i, (words, mark) in enumerate([(10000, "xY1"), (5000, "aYoo"), (6000, "Zq")])
        ]
        for part, own in enumerate((rows[:2], rows[2:])):
            path = folder / "mrcr" / f"{needles}needle_{part}.parquet"
            parquet.write_table(pa.Table.from_pylist(own), path)
        found[needles] = rows
    return found
