from __future__ import annotations

import os
from pathlib import Path

import pytest

from reattention_eval.checkpoints import pip_settings
from reattention_eval.checkpoints.cache_dir import cache_folder
from reattention_eval.checkpoints.pip_settings import DEFAULT_INDEX, index_settings


@pytest.fixture
def clean(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    config = tmp_path / "pip.conf"
    config.write_text("")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    return config


def test_pips_own_configuration_is_read(clean):
    clean.write_text(
        "[global]\nindex-url = https://a.example/simple/\ntimeout = 7\ncert = /some/ca.pem\n"
        "extra-index-url =\n    https://b.example/simple\n    https://c.example/simple\n"
        "trusted-host = a.example\n[install]\nproxy = http://p.example:3128\n"
        "[freeze]\ntimeout = 99\n"
    )
    settings = index_settings()
    assert settings.indexes[0] == "https://a.example/simple"
    assert settings.indexes[1:] == ("https://b.example/simple", "https://c.example/simple")
    assert settings.timeout == 7
    assert settings.cert == "/some/ca.pem"
    assert settings.trusted_hosts == ("a.example",)
    assert settings.proxy == "http://p.example:3128"


def test_variables_override_the_files(clean, monkeypatch):
    clean.write_text("[global]\nindex-url = https://a.example/simple\n")
    monkeypatch.setenv("PIP_INDEX_URL", "https://v.example/simple/")
    assert index_settings().indexes[0] == "https://v.example/simple"


def test_without_pip_the_variables_still_count(clean, monkeypatch):
    monkeypatch.setattr(pip_settings.sys, "executable", "/no/such/python")
    assert index_settings().indexes == (DEFAULT_INDEX,)
    monkeypatch.setenv("PIP_INDEX_URL", "https://v.example/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://w.example/simple")
    assert index_settings().indexes == ("https://v.example/simple", "https://w.example/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert index_settings().indexes == ()


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("REATTENTION_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "reattention_eval"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "reattention_eval"
    monkeypatch.setenv("REATTENTION_CACHE", str(tmp_path / "mine"))
    assert cache_folder(None, "models") == tmp_path / "mine" / "models"
    assert cache_folder(tmp_path / "given") == Path(tmp_path / "given")
    assert (tmp_path / "mine" / "models").is_dir()
