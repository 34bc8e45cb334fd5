"""Eviction where kvpress cannot run: said before a model is loaded, on every transformers."""

from __future__ import annotations

from importlib import metadata

import pytest
import transformers
from tiny_models import tiny_model

from reattention_eval import attach
from reattention_eval.errors import ConfigError
from reattention_eval.harness.prompt_runner import PromptRunner
from reattention_eval.methods import build_method
from reattention_eval.methods.eviction import Eviction

NAMES = ["snapkv", "h2o", "pyramidkv", "tova", "expected_attention", "keydiff", "kvpress"]


@pytest.fixture
def versions(monkeypatch):
    """Versions that are said to be installed; the real one of transformers unless it is set."""
    said = {"transformers": transformers.__version__}

    def version(name):
        if name not in said:
            raise metadata.PackageNotFoundError(name)
        return said[name]

    monkeypatch.setattr("reattention_eval.methods.kvpress_library.metadata.version", version)
    return said


@pytest.mark.parametrize("name", NAMES)
def test_not_on_transformers_5(name, versions, tmp_path):
    if transformers.__version__.startswith("4."):
        versions["transformers"] = "5.23.0"
    message = r"kvpress runs on transformers 4.57, and 5.* is installed: .* the cache_position"
    method = build_method(name)
    assert isinstance(method, Eviction)
    for tried in (
        method.check_machine,
        lambda: attach(tiny_model(), name).__enter__(),
        lambda: PromptRunner(str(tmp_path / "not there"), dict(type=name)),
    ):
        with pytest.raises(ConfigError, match=message):
            tried()


def test_not_installed_or_another_version(versions):
    versions["transformers"] = "4.57.6"
    cure = r"pip install 'reattention-eval\[baselines\]' && pip install --no-deps kvpress==0.5.5"
    with pytest.raises(ConfigError, match=rf"needs kvpress 0.5.5: {cure}"):
        build_method("tova").check_machine()
    versions["kvpress"] = "0.2.0"
    with pytest.raises(ConfigError, match=rf"0.2.0 is installed, and 0.5.5 was tested: {cure}"):
        build_method("tova").check_machine()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(type="tova", budget_tokens=0), "budget_tokens must be at least 1, found 0"),
        (dict(type="tova", budget_tokens=8.0), "budget_tokens must be a whole number, found 8.0"),
        (dict(type="tova", query_aware=1), "query_aware must be True or False"),
        (dict(type="tova", window_size=3), "tova has no setting window_size"),
        (dict(type="snapkv", budget_tokens=64), "window_size 64 is kept whole, so budget_tokens"),
        (dict(type="pyramidkv", budget_tokens=9), "window_size 64 is kept whole"),
        (dict(type="snapkv", kernel_size=4), "kernel_size must be odd, found 4"),
        (dict(type="pyramidkv", beta=0), "beta must be at least 1, found 0"),
        (dict(type="expected_attention", n_future_positions=0), "must be at least 1, found 0"),
        (dict(type="expected_attention", n_sink=-1), "fewer than budget_tokens 8192, found -1"),
        (dict(type="expected_attention", budget_tokens=4), "fewer than budget_tokens 4, found 4"),
        (dict(type="expected_attention", epsilon="a"), "epsilon must be a number .* found 'a'"),
        (dict(type="kvpress", press=3), "press must be a word in quotes"),
        (dict(type="kvpress", press_settings="x=1"), "press_settings must be a dict, found 'x=1'"),
    ],
    ids=str,
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        build_method(settings)


@pytest.mark.parametrize("name", NAMES)
def test_what_it_says_of_itself(name):
    method = build_method(dict(type=name, budget_tokens=300))
    assert method.budget == method.whole_until == 300
    assert method.reach(4096) == 4096
    assert not method.needs_document_end
    assert build_method(dict(type=name, query_aware=False)).needs_document_end
    assert method.observes_attention == (name == "h2o")
