"""One thread: the tensors are small, and several test processes share the cores. And no test leaves a plugin behind."""

import sys
from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_plugin_is_left() -> Iterator[None]:
    """What a test registers ends with it."""
    registry = sys.modules.get("understudy.registry")
    before = dict(registry._PLUGGED) if registry else {}
    yield
    if registry := sys.modules.get("understudy.registry"):
        registry._PLUGGED.clear()
        registry._PLUGGED.update(before)
