"""From plain results to what people read."""

from understudy.report.table import Column, render

__all__ = ["Column", "render"]
