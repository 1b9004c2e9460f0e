"""``understudy schema``."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from understudy.cli.given import examples, load_plugins, plugins

__all__ = ["schema"]


@click.command(
    epilog=examples(
        "understudy schema > understudy.schema.json",
        "understudy schema --plugin my_models.py > understudy.schema.json",
    )
)
@plugins
def schema(plugin: Sequence[str]) -> None:
    """Print the JSON Schema of recipes, for editors.

    With it they complete and check while you write. The first line of a recipe tells them where it is:

    \b
    # yaml-language-server: $schema=understudy.schema.json
    """
    from understudy.recipe.schema import schema as of_recipes

    load_plugins(plugin)
    click.echo(json.dumps(of_recipes(), indent=1, allow_nan=False))
