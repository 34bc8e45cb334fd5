"""Plans of run.sh: needles in 524,288 and 1,048,576 tokens, which take minutes a prompt.

First the few questions of methods that attend to all keys, the longest one first: it takes most of
the memory, and others may share the GPU behind it.
"""

from configs.datasets import methods_table as _table

plans = [*reversed(_table.million[2:]), *_table.million[:2]]
