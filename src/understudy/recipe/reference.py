"""``python -m understudy.recipe.reference``: the tables of keys in docs/recipes.md."""

from __future__ import annotations

from understudy.recipe.complaints import words
from understudy.recipe.forms import fields_of, form
from understudy.recipe.frame import Recipe, Teacher, TermOf
from understudy.registry import Option

__all__ = ["keys"]


def keys(kind: type) -> str:
    """A table in Markdown of the keys of a recipe, of its teacher, or of a term."""
    lines = ["| key | is | if not given | what it says |", "|---|---|---|---|"]
    lines += [_line(option) for option in fields_of(kind).values()]
    return "\n".join(lines)


def _line(option: Option) -> str:
    made = form(option.annotation)
    default = "needed" if option.required else _default(option)
    return f"| `{option.name}` | {words(made or {})} | {default} | {option.told} |"


def _default(option: Option) -> str:
    if isinstance(option.default, dict):
        return f"{option.default['name']}, see below"
    return "" if option.default is None else f"`{str(option.default).lower()}`"


if __name__ == "__main__":
    print("\n\n".join(map(keys, (Recipe, Teacher, TermOf))))
