"""A method that cannot serve a model is refused by its configuration: no weight is read for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from families import tiny_family
from tiny_models import tiny_model
from tiny_tokenizers import tiny_tokenizer
from typer.testing import CliRunner

from reattention_eval import attach
from reattention_eval.cli import app
from reattention_eval.engine.fit import fitting
from reattention_eval.errors import ConfigError
from reattention_eval.harness.prompt_runner import PromptRunner
from reattention_eval.methods import build_method, list_methods, method_class
from reattention_eval.sliding_layers import full_layers

KVPRESS = transformers.__version__.startswith("4.")
LATE = "kvpress runs on transformers 4.57"  # said of every model where kvpress cannot run
SLIDING = dict(sliding_window=64)
# model family and settings, the method, what is said
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "layers": ("llama", {}, dict(type="quest"), "the first 2 layers attend to all keys, and of"),
    "window": ("llama", {}, dict(type="reattention"), "the scope of 8192 tokens is larger"),
    "places": ("llama", {}, dict(type="lm_infinite"), "distance_limit 8192 is larger than"),
    "groups": ("llama", {}, dict(type="self_extend"), "window_size 1024 must be below"),
    "blocks": ("llama", {}, dict(type="infllm"), "local_size 4096 is the distance"),
    "segments": ("llama", {}, dict(type="dca", window_size=513), "window_size 513 is larger"),
    "sink": ("llama", {}, dict(type="streaming_llm"), "sink_size 32 . window_size 8160 = 8192"),
    "views": ("mistral", SLIDING, dict(type="full"), "every layer of this mistral model attends"),
    "sliding": ("mistral", SLIDING, dict(type="snapkv"),
        "attends within a sliding window, whose cache drops" if KVPRESS else LATE),
    "family": ("olmo3", {}, dict(type="tova"),
        "kvpress was written for LlamaForCausalLM, .* is olmo3" if KVPRESS else LATE),
    "scaled": ("qwen2", dict(rope_scaling=dict(rope_type="linear", factor=2.0)),
        dict(type="yarn"), "needs a model whose RoPE is not scaled"),
}  # fmt: skip
NO_WEIGHTS = ("transformers.AutoModelForCausalLM.from_pretrained", "safetensors.torch.load_file")


@pytest.fixture
def folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A checkpoint that nobody may read the weights of."""

    def saved(family: str, settings: dict[str, Any]) -> Path:
        folder = tmp_path_factory.mktemp("model")
        model: Any = (
            tiny_family(family, **settings) if family == "olmo3" else tiny_model(family, **settings)
        )
        model.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        for name in NO_WEIGHTS:
            monkeypatch.setattr(name, None)
        return folder

    return saved


@pytest.mark.parametrize("case", CASES)
def test_no_weight_is_read(case: str, folders: Any) -> None:
    family, settings, method, says = CASES[case]
    path = str(folders(family, settings))
    with pytest.raises(ConfigError, match=says):
        PromptRunner(path, method)


def test_commands_read_no_weight(folders: Any, tmp_path: Path) -> None:
    path, book = str(folders("llama", dict(window=4096))), tmp_path / "book.txt"
    book.write_text("The dog sleeps.")
    given = (
        ["ask", str(book), "Who?", "--model", path, "--method", "quest"],
        ["bench", "e2e", path, "--methods", "full", "--methods", "quest", "--lengths", "64"],
    )
    for words in given:
        more = [] if words[0] == "ask" else ["--out", str(tmp_path / "x.json")]
        done = CliRunner().invoke(app, [*words, "--device", "cpu", *more])
        said = " ".join(done.output.split())
        assert done.exit_code == 2 and "quest: the first 2 layers attend" in said, said


def test_attaching_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for case in ("layers", "window", "sliding", "scaled"):
        family, settings, method, says = CASES[case]
        with pytest.raises(ConfigError, match=says), attach(tiny_model(family, **settings), method):
            pass


def test_what_one_process_alone_can_do(tmp_path: Path) -> None:
    """Asked before the checkpoint is looked for."""
    path = str(tmp_path / "not there")
    with pytest.raises(ConfigError, match=r'cache="auto" looks at .* 2 share this model'):
        PromptRunner(path, dict(type="reattention"), tensor_parallel=2, cache="auto")
    with pytest.raises(ConfigError, match="snapkv runs in one process, and 2 share"):
        PromptRunner(path, dict(type="snapkv"), tensor_parallel=2)


@pytest.mark.parametrize("name", list_methods())
def test_every_method_fits_a_model_that_it_serves(name: str) -> None:
    """Nothing is refused but what is: `configure` for loading and, behind it, attach agree."""
    method = build_method(name)
    if method_class(name).needs and not KVPRESS:
        return  # the refusals are tests/methods/test_eviction_needs.py
    config = tiny_model(window=16384, layers=3).config
    once = fitting(method)(config)
    assert fitting(method)(once) is once


def test_full_layers() -> None:
    for model, layers in (
        (tiny_model(), [0, 1]),
        (tiny_model("mistral", **SLIDING), []),
        (tiny_family("olmo3"), [3]),
    ):
        assert full_layers(model.config) == layers
    assert full_layers(tiny_family("moshi").config) is None  # it has a window, and full attention
