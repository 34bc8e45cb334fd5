"""Plans of run.sh: needles in 524,288 and 1,048,576 tokens, which take minutes a prompt."""

from configs.datasets import methods_table as _table

plans = _table.million
