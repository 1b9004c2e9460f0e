"""``understudy completion SHELL``."""

from __future__ import annotations

import click

from understudy.cli.given import Name, examples

__all__ = ["VARIABLE", "completion"]

VARIABLE = "_UNDERSTUDY_COMPLETE"
"""Set by the shell when it asks for completions."""


@click.command(
    epilog=examples(
        'eval "$(understudy completion bash)"      in ~/.bashrc; zsh likewise',
        "understudy completion fish > ~/.config/fish/completions/understudy.fish",
    )
)
@click.argument("shell", type=Name(["bash", "zsh", "fish"]), metavar="SHELL")
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes a shell complete verbs, options and names.

    SHELL is bash, zsh or fish.
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # it is one of the three
    click.echo(kind(ctx.find_root().command, {}, "understudy", VARIABLE).source())
