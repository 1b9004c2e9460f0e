"""Which of many are meant by names as one types them: ``all,-this``."""

from __future__ import annotations

from collections.abc import Sequence

from understudy.errors import InputError, choices, raise_all

__all__ = ["picked"]


def picked(option: str, kind: str, given: Sequence[str], known: Sequence[str]) -> list[str]:
    """Names in the order in which they are given, each once: "all" is every one, "-NAME" leaves one out.

    Where names are left out and none is asked for, all others are meant.

    Args:
        option: of the command line, for messages.
        kind: what they are names of.
        given: as they were typed.
        known: those that there are.

    Raises: InputError for names that there are not.

    >>> picked("--ways", "way", ["-b"], ["a", "b", "c"])
    ['a', 'c']
    """
    wrong = [name for one in given if (name := one.removeprefix("-")) not in known and one != "all"]
    raise_all(InputError, [f"{option}: there is no {kind} {name!r}. {choices(name, known)}" for name in wrong])
    asked = [one for one in given if not one.startswith("-")] or (["all"] if given else [])
    wanted = dict.fromkeys(name for one in asked for name in (known if one == "all" else [one]))
    return [name for name in wanted if f"-{name}" not in given]
