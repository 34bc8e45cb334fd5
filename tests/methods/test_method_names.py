"""Methods by class, by path, from installed packages: found, or one sentence."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from rich.console import Console

from reattention_eval.cli.tables import methods_table
from reattention_eval.errors import ConfigError
from reattention_eval.methods import (
    FullAttention,
    Method,
    ReAttention,
    build_method,
    list_methods,
    method_class,
    method_of_text,
    method_settings,
    registry,
    text_of_method,
)

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "example_methods"


@dataclass(frozen=True)
class Needy(FullAttention):
    name = "needy"
    wanted: int


@dataclass(frozen=True)
class Nameless(FullAttention):
    source = None


class Neither(Method):
    name, source = "neither", "here"
    budget = None

    def reach(self, window):
        return window


@pytest.fixture
def examples(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield
    sys.modules.pop("example_methods", None)


def announce(monkeypatch, **points):
    made = [EntryPoint(name, value, registry.GROUP) for name, value in points.items()]
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: made)
    return made


def test_by_path_and_by_class(examples):
    from example_methods import EveryThird

    path = "example_methods.EveryThird"
    by_path = build_method(dict(type=path, recent=600))
    assert by_path == EveryThird(recent=600)
    assert (
        build_method(dict(type=EveryThird, recent=600)) == build_method(EveryThird(600)) == by_path
    )
    assert method_settings(by_path) == dict(type=path, recent=600, chunk_size=512)
    assert build_method(method_settings(by_path)) == by_path
    assert method_settings(ReAttention())["type"] == "reattention"


def test_from_an_installed_package(examples, monkeypatch):
    announce(monkeypatch, every_third="example_methods:EveryThird", another="example_methods:Gone")
    assert list_methods()[-2:] == ["another", "every_third"]
    method = build_method("every_third")
    assert method_settings(method)["type"] == "every_third"
    with pytest.raises(
        ConfigError, match=r"unknown method 'x'; there are: reattention, .*every_third"
    ):
        build_method("x")
    with pytest.raises(
        ConfigError, match=r"'another' of the package .* example_methods has no Gone"
    ):
        build_method("another")
    console = Console(record=True, width=200)
    console.print(methods_table())
    text = console.export_text()
    assert "every_third" in text
    assert "example_methods has no Gone" in text


def test_the_table_tells_every_setting():
    console = Console(record=True, width=300)
    console.print(methods_table())
    text = console.export_text()
    for word in ("last_tokens=None", "per_kv_head=False", "votes=count", "query_aware=True"):
        assert word in text
    assert text.count("needs kvpress 0.5.5, transformers 4.57") == 7


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        (
            "kvpress:press=BlockPress,press_settings={'press': 'KeyDiffPress', 'block_size': 8}",
            dict(press="BlockPress", press_settings=dict(press="KeyDiffPress", block_size=8)),
        ),
        ("kvpress:press=KnormPress , press_settings={'a': '},'}", dict(press_settings={"a": "},"})),
        ("kvpress", {}),
    ],
    ids=["dict", "quotes", "bare"],
)
def test_in_a_word(text, settings):
    method = method_of_text(text)
    assert method == build_method(dict(type="kvpress", **settings))
    word = text_of_method(method_settings(method))
    assert method_of_text(word) == method
    assert word == "kvpress" or "{" in word


@pytest.mark.parametrize("text", ["reattention:3", "reattention:=3", "reattention:top_k=1,x"])
def test_a_setting_needs_name_and_value(text):
    with pytest.raises(ConfigError, match="settings are given as name=value"):
        method_of_text(text)


def test_two_packages_with_one_name(examples, monkeypatch):
    points = announce(monkeypatch, every_third="example_methods:EveryThird")
    points.append(EntryPoint("every_third", "elsewhere:Other", registry.GROUP))
    with pytest.raises(ConfigError, match="more than one package"):
        method_class("every_third")


def test_a_name_of_this_package_cannot_be_taken(examples, monkeypatch):
    announce(monkeypatch, full="example_methods:EveryThird")
    assert method_class("full") is FullAttention
    assert list_methods().count("full") == 1


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nowhere.at.all.Method", r"cannot be imported from nowhere.at.all .*PYTHONPATH"),
        ("reattention_eval.methods.registry.Missing", "registry has no Missing"),
        ("reattention_eval.methods.build_method", "is no long-context method"),
        ("reattention_eval.methods.ViewMethod", "is no long-context method"),
        (f"{__name__}.Neither", "is no long-context method"),
        (Neither, "is no long-context method"),
        (f"{__name__}.Nameless", "must say its source"),
        (f"{__name__}.Needy", "needs the setting wanted"),
        (7, "unknown method '7'"),
    ],
    ids=str,
)
def test_what_is_none(kind, message):
    with pytest.raises(ConfigError, match=message):
        build_method(dict(type=kind))


@pytest.mark.parametrize(
    "text", ["full", "reattention:local_size=2048,score=qkv_l1", "streaming_llm:chunk_size=7"]
)
def test_a_method_in_a_word(text: str) -> None:
    assert text_of_method(method_settings(method_of_text(text))).count(",") == text.count(",")
    assert method_of_text(text_of_method(method_settings(method_of_text(text)))) == (
        method_of_text(text)
    )
