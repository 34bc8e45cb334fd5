"""Tables, pictures and a page of runs, finished or not, from their files alone."""

from reattention_eval.report.build import Report, build_joint_report, build_report
from reattention_eval.report.run import latest_work_dir

__all__ = ["Report", "build_joint_report", "build_report", "latest_work_dir"]
