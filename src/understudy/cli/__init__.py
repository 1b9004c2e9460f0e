"""The command line: a verb a file. Nothing heavy is imported before a verb that needs it runs."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType

import click
from click.shell_completion import shell_complete

import understudy
from understudy.cli.bench import bench
from understudy.cli.check import check
from understudy.cli.compare import compare
from understudy.cli.completion import VARIABLE, completion
from understudy.cli.data import data
from understudy.cli.demo import demo
from understudy.cli.evaluate import evaluate
from understudy.cli.export import export
from understudy.cli.init import init
from understudy.cli.listing import listing
from understudy.cli.report import report
from understudy.cli.run import NOT_ACCEPTED, run
from understudy.cli.schema import schema
from understudy.cli.store import store
from understudy.cli.tune import tune
from understudy.errors import Interrupted, MachineError, UnderstudyError, choices
from understudy.recipe.text import shown

__all__ = ["EXIT_CODES", "main", "program"]

EXIT_CODES = {
    0: "done",
    1: "a bug of ours, with its traceback: please tell us",
    2: "what was given cannot be used: a recipe, an option, data, a model",
    3: "a file is damaged, or is not what it claims to be",
    4: "the machine cannot do it: disk, memory, a package that is not installed",
    5: "stopped by Ctrl-C or SIGTERM; `--resume` goes on",
    NOT_ACCEPTED: "done, but the student does not meet the recipe's `accept`; only with `run --require`",
}


class Verbs(click.Group):
    """Verbs in the order in which they are used, and the nearest one where there is none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they were added."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb that is called."""
        if args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"there is no verb {shown(args[0])}. {choices(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=Verbs,
    subcommand_metavar="VERB ...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nStart here:\n  understudy demo\n  understudy init image-classification > my.yaml\n"
    "  understudy check my.yaml && understudy run my.yaml\n\n"
    "Exit codes: 0 done, 2 what was given cannot be used, 3 a damaged file, 4 the machine cannot do it, "
    "5 stopped and resumable, 6 not accepted (run --require), 1 a bug of ours.",
)
@click.version_option(understudy.__version__, message="understudy %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error; may stand anywhere.")
def program(debug: bool) -> None:
    """Knowledge distillation for PyTorch: a small model takes over from a big one."""


for verb in (
    demo,
    init,
    check,
    run,
    compare,
    tune,
    evaluate,
    export,
    bench,
    report,
    store,
    listing,
    data,
    schema,
    completion,
):
    program.add_command(verb)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code: see :data:`EXIT_CODES`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text
    try:
        with _terminated():
            code = _call([a for a in arguments if a != "--debug"])
            sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except BrokenPipeError:  # whoever read the output has seen enough
        code = 0
    except (Exception, KeyboardInterrupt) as error:
        told = _told(error)
        if told is None:
            raise
        if "--debug" in arguments:
            traceback.print_exception(error)
        print(told, file=sys.stderr)
        code = told.exit_code
    _let_go()
    return code


def _call(arguments: list[str]) -> int:
    if instruction := os.environ.get(VARIABLE):
        return shell_complete(program, {}, "understudy", VARIABLE, instruction)
    try:
        with program.make_context("understudy", arguments) as context:
            code = program.invoke(context)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    return code if isinstance(code, int) else 0


def _told(error: BaseException) -> UnderstudyError | None:
    """What is said to the user; None if it is a bug."""
    if isinstance(error, UnderstudyError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("stopped.")
    if isinstance(error, OSError):
        return MachineError(
            f"{'the output' if error.filename is None else shown(str(error.filename), 200)}: {error.strerror or error}."
        )
    if isinstance(error, MemoryError) or any(sign in repr(error) for sign in ("OutOfMemory", "can't allocate memory")):
        return MachineError(f"the memory is not enough: {error}. A smaller batch_size, or a smaller model, needs less.")
    return None


@contextlib.contextmanager
def _terminated() -> Iterator[None]:
    """Let SIGTERM end a verb as Ctrl-C does; while a model trains, the engine's own handler stands."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _let_go() -> None:
    """Where the output cannot be written, keep Python from trying once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
