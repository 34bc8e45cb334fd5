"""Tables and pictures of a finished run, from its files alone."""

from reattention_eval.report.build import Report, build_report
from reattention_eval.report.run import latest_work_dir

__all__ = ["Report", "build_report", "latest_work_dir"]
