"""How the tests call the program: in this process, or in one of its own."""

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.cli import main

SMALL = ("--set", "epochs=2", "--set", "teacher.epochs=2", "--set", "seeds=1")
BARE = (*SMALL, "--set", "report=false", "--set", "export=null")


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


def call(*arguments: Any) -> Answer:
    out, err = io.BytesIO(), io.StringIO()  # bytes, because completions are written as such
    screen = io.TextIOWrapper(out, encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(err):
        code = main([str(a) for a in arguments])
    assert "Traceback" not in err.getvalue()
    return Answer(code, out.getvalue().decode(), err.getvalue())


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80", **more}


def process(*arguments: Any, cwd: Path | None = None, program: tuple[str, ...] = ("-m", "understudy")) -> Answer:
    done = subprocess.run(
        [sys.executable, *program, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, env=environment()
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def too_wide(text: str, columns: int = 80) -> list[str]:
    """Lines that do not fit, or that were cut to fit."""
    return [line for line in text.splitlines() if len(line.rstrip()) > columns or "…" in line]
