"""A teacher's outputs on the disk: made once, checked, and read faster than they could be made again."""

from understudy.store.comparison import Outputs
from understudy.store.encoding import ENCODINGS, Field
from understudy.store.fidelity import TOLERANCE
from understudy.store.manifest import MANIFEST
from understudy.store.reader import Reader
from understudy.store.store import Store

__all__ = ["ENCODINGS", "MANIFEST", "TOLERANCE", "Field", "Outputs", "Reader", "Store"]
