"""`python -m reattention_eval`: the command, where nothing is installed but a copy is at hand."""

from reattention_eval.cli import app

app()
