"""Headless Chromium over its debugging pipe: the little of the protocol that the tests of the page need."""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Chromium reads commands from descriptor 3 and writes to 4; both may be in use here, so a process in between moves them.
MOVE = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 20) for number in sys.argv[1:3])
os.dup2(read, 3), os.dup2(write, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """One tab. ``complaints`` collects what the page wrote to the console, uncaught errors and failed requests."""

    def __init__(self, commands: int, answers: int) -> None:
        self.commands, self.answers = commands, answers
        self.buffer = b""
        self.number = 0
        self.session: str | None = None
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.events: list[str] = []

    def attach(self) -> None:
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **arguments: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": arguments}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _next(self, patience: float = 60) -> dict[str, Any]:
        until = time.monotonic() + patience
        while b"\0" not in self.buffer:
            if not select.select([self.answers], [], [], max(0, until - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            more = os.read(self.answers, 1 << 20)
            if not more:
                raise EOFError("the browser is gone")
            self.buffer += more
        line, _, self.buffer = self.buffer.partition(b"\0")
        message = json.loads(line)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event: str | None, told: dict[str, Any]) -> None:
        if event is not None:
            self.events.append(event)
        if event == "Runtime.consoleAPICalled":
            self.complaints.append(f"{told['type']}: {[argument.get('value') for argument in told['args']]}")
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(str(told["exceptionDetails"].get("exception", told["exceptionDetails"])))
        elif event == "Log.entryAdded":
            self.complaints.append(f"{told['entry']['level']}: {told['entry']['text']}")
        elif event == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])

    def open(self, file: Path | str, *, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Show a file, or what is at an address, at a width, in a colour scheme, as if for the first time."""
        phone = width < 600
        self(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        self("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.complaints.clear(), self.requests.clear(), self.events.clear()
        self("Page.navigate", url=file if isinstance(file, str) else file.resolve().as_uri())
        while "Page.loadEventFired" not in self.events:
            self._next()

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key: str, text: str = "") -> None:
        """A key on the keyboard, down and up."""
        code = {"Enter": 13, "Tab": 9}.get(key, 0)
        self("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, text=text, windowsVirtualKeyCode=code)
        self("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)


@contextlib.contextmanager
def browser(program: str, profile: Path) -> Iterator[Browser]:
    """A browser with a new profile, ended with the block."""
    read_here, write_there = os.pipe()
    read_there, write_here = os.pipe()
    inherited = (read_there, write_there)
    starter = [sys.executable, "-c", MOVE, *map(str, inherited), program, *FLAGS, f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        starter, pass_fds=inherited, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for descriptor in inherited:
        os.close(descriptor)
    try:
        tab = Browser(write_here, read_here)
        tab.attach()
        yield tab
        tab.session = None
        tab("Browser.close")
    finally:
        for descriptor in (read_here, write_here):
            os.close(descriptor)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
