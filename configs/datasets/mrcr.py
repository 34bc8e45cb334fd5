"""OpenAI's MRCR, 2, 4 and 8 needles, in its bins to 131,072 tokens; it has them to 1,048,576."""

plan = dict(benchmark="mrcr", lengths=[8192, 16384, 32768, 65536, 131072])
