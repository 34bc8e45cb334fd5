"""report.html: one file that opens from disk, without network, scripts optional."""

from reattention_eval.report.page.write import write_page

__all__ = ["write_page"]
