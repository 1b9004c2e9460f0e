"""Ctrl-C and SIGTERM: once ends the run after this step, with a checkpoint; twice ends it at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from understudy.errors import Interrupted

__all__ = ["Interrupts"]


class Interrupts:
    """While entered, remembers a signal in :attr:`asked` instead of raising in the middle of a step."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise Interrupted(
                f"stopped at once by a second {signal.Signals(number).name}; what was saved before can be resumed."
            )
        self.asked = True
