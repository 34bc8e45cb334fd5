"""Which transformers is taken, and which is refused with the cure."""

from __future__ import annotations

import pytest

from reattention_eval.errors import ConfigError
from reattention_eval.versions import check_transformers


@pytest.mark.parametrize(("version", "word"), [("4.56.2", "older"), ("6.0.0", "newer")])
def test_out_of_range(version, word, monkeypatch):
    with pytest.raises(ConfigError, match=f"{version} is {word}.*pip install"):
        check_transformers(version)
    monkeypatch.setattr("transformers.__version__", version)
    with pytest.raises(ConfigError, match=f"{version} is {word}"):
        check_transformers()


@pytest.mark.parametrize("version", ["4.57.0.dev0", "4.57.6", "5.23.0", "5.0.0rc1"])
def test_in_range(version):
    check_transformers(version)
