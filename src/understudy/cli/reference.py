"""``python -m understudy.cli.reference > docs/cli.md``: the page of the command line, made from the program itself."""

from __future__ import annotations

import inspect
import re

import click

from understudy.cli import EXIT_CODES, program

__all__ = ["reference", "with_parts"]

_TOP = """# The command line

This page is generated: `python -m understudy.cli.reference > docs/cli.md`.

`understudy VERB ...` and `python -m understudy VERB ...` are the same. Every verb answers `--help` with examples, and
`--debug`, anywhere, shows the traceback of an error. `eval "$(understudy completion bash)"` makes Tab complete verbs,
options and names.
"""


def reference() -> str:
    """Every verb in Markdown: what it does, how it is called, its options, examples; and the exit codes."""
    verbs = [_verb(*verb) for name, command in program.commands.items() for verb in with_parts(name, command)]
    codes = ["## Exit codes", _table(["code", "meaning"], [[str(k), told] for k, told in EXIT_CODES.items()])]
    index = _table(
        ["verb", "what it does"], [[f"[`{n}`](#{n})", c.get_short_help_str(100)] for n, c in program.commands.items()]
    )
    return "\n\n".join([_TOP.rstrip(), index, *verbs, *codes]) + "\n"


def with_parts(name: str, command: click.Command) -> list[tuple[str, click.Command]]:
    """A verb, and those that stand behind it."""
    parts = command.commands if isinstance(command, click.Group) else {}
    return [(name, command), *((f"{name} {part}", made) for part, made in parts.items())]


def _verb(name: str, command: click.Command) -> str:
    told = re.sub("\x08\n(.+)", r"```yaml\n\1\n```", inspect.cleandoc(command.help or ""))
    # With the program's own settings: click keeps a verb's option for help as the first context had it.
    context = click.Context(command, info_name=f"understudy {name}", **program.context_settings)
    usage = f"understudy {name} {' '.join(command.collect_usage_pieces(context))}"
    made = [f"## {name}", told, f"```\n{usage}\n```"]
    options = [_option(p, context) for p in command.params if isinstance(p, click.Option)]
    made.append(_table(["option", "what it does"], options))
    shown = [f"```sh\n{told}\n```"] if (told := _examples(command)) else []
    return "\n\n".join([*filter(None, made), *shown])


def _option(option: click.Option, context: click.Context) -> list[str]:
    names = ", ".join(f"`{n}`" for n in option.opts)
    record = option.get_help_record(context)
    assert record is not None  # no option is hidden
    value = "" if option.is_flag else f" {record[0].rpartition(' ')[2]}"
    return [names.removesuffix("`") + f"{value}`", " ".join(record[1].split())]


def _examples(command: click.Command) -> str:
    """Those of its help, with what stands beside them as comments."""
    lines = (command.epilog or "").split("\n")[2:]
    return "\n".join(re.sub(r"(\S) {2,}(\S)", r"\1  # \2", line.strip()) for line in lines)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


if __name__ == "__main__":
    print(reference(), end="")
