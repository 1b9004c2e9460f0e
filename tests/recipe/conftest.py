"""Threads and plugins are as they were after each test; a run measures no other process."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch

from understudy import registry


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    threads, plugged, modules = torch.get_num_threads(), dict(registry._PLUGGED), set(sys.modules)
    yield
    torch.set_num_threads(threads)
    registry._PLUGGED.clear()
    registry._PLUGGED.update(plugged)
    for name in [name for name in sys.modules if name.startswith("understudy_plugin_") and name not in modules]:
        del sys.modules[name]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the fresh process in which a model's memory is measured."""
    monkeypatch.setattr("understudy.evaluate._memory", lambda *_: None)
