"""Text that fits its place, and says so where something was left out."""

from __future__ import annotations

__all__ = ["cut", "fit", "left_out", "printable"]


def printable(text: str) -> str:
    """The text with blanks for line ends, control characters and halves of surrogate pairs."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def fit(name: str, most: int = 13) -> str:
    """A name that is short enough to be drawn, its end kept: names that begin alike tend to differ there.

    >>> fit("sparrow hawk, young"), fit("hawk")
    ('sparrow…young', 'hawk')
    """
    name, tail = printable(name), most * 2 // 5
    return name if len(name) <= most else f"{name[: most - tail - 1]}…{name[-tail:]}"


def cut(text: str, most: int) -> str:
    """The text's beginning, and how much is missing."""
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most:,} more characters)"


def left_out(shown: int, there: int, what: str) -> str:
    """What a reader must know where not all is shown; nothing where all is."""
    return f"The first {shown:,} of {there:,} {what} are shown." if shown < there else ""
