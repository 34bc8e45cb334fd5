"""The command `reattention-eval`."""

from reattention_eval.cli.app import app

__all__ = ["app"]
