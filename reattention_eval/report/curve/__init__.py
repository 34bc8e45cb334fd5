"""Score against length for one model: a line a method, inside its window and beyond it."""

from reattention_eval.report.curve.lines import PERCENT, in_percent, titles
from reattention_eval.report.curve.pictures import draw_grid
from reattention_eval.report.curve.points import COLUMNS, Point, curve_points, points_csv
from reattention_eval.report.curve.write import draw_curve, draw_read_curve

__all__ = [
    "COLUMNS", "PERCENT", "Point", "curve_points", "draw_curve", "draw_grid", "draw_read_curve",
    "in_percent", "points_csv", "titles",
]  # fmt: skip
