"""Data as a recipe names it: functions from files to :class:`~understudy.data.parts.Parts`."""

from understudy.data.digits import digits
from understudy.data.sets.csv import csv
from understudy.data.sets.hugging_face import hugging_face
from understudy.data.sets.images import images
from understudy.data.sets.npz import npz

__all__ = ["csv", "digits", "hugging_face", "images", "npz"]
