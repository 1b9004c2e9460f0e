"""Readers of what users have, data sets, and the order in which samples are seen."""

from understudy.data.arrays import npz
from understudy.data.augment import Augment, Pictures, Streamed
from understudy.data.hugging_face import HuggingFace, hugging_face
from understudy.data.images import ImageFolder, image_folder
from understudy.data.parts import Parts
from understudy.data.table import Table, csv_table

__all__ = [
    "Augment",
    "HuggingFace",
    "ImageFolder",
    "Parts",
    "Pictures",
    "Streamed",
    "Table",
    "csv_table",
    "hugging_face",
    "image_folder",
    "npz",
]
