"""From plain results to what people read."""

from understudy.report.table import Column, markdown, render

__all__ = ["Column", "markdown", "render"]
