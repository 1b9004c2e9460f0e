"""``python -m understudy``, and the command ``understudy``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from understudy.errors import UnderstudyError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return _demo(arguments)
    except UnderstudyError as error:
        if arguments.debug:
            raise
        print(f"understudy: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("understudy: stopped.", file=sys.stderr)
        return 5


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="understudy", description="Knowledge distillation for PyTorch.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    demo = verbs.add_parser("demo", help="the main job on real images, in about two minutes, offline")
    demo.add_argument("--seeds", type=_seeds, default=5, metavar="N", help="students to train of each kind (default 5)")
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("runs/demo"),
        metavar="FOLDER",
        help="where everything goes (default runs/demo)",
    )
    demo.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _seeds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; a whole number from 1 to 100")
    return int(text)


def _demo(arguments: argparse.Namespace) -> int:
    import torch

    from understudy.demo import run

    # More threads only wait for each other on models this small, and the figures are then the same on every machine.
    torch.set_num_threads(1)
    run(arguments.seeds, out=arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
