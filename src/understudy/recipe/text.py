"""From a recipe's text to plain values that know their lines.

YAML 1.2, of which a recipe needs little: mappings, lists, texts, numbers, true, false and null. Whatever else the language
has is refused, and so are sizes that no recipe has, before anything is built from the text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from understudy.errors import InputError, MachineError, raise_all

__all__ = ["Document", "Place", "Where", "read", "read_setting", "shown"]

BYTES, DEPTH, NODES = 64 * 1024, 16, 5_000
"""What a recipe may be at most. The longest of ours has 2 KB, 4 levels and 60 values."""

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters that no text has. Written as "\\0" or "\\e" they would end a path early, or clear the screen of who reads an error."""

Where = tuple[Any, ...]
"""The way to a value: ("optimizer", "lr"), ("terms", 0, "at", 1)."""


@dataclass(frozen=True)
class Place:
    """Where a value was written: a file's line, or an argument of the command line.

    Attributes:
        source: the file as it was named, or ``--set``.
        line: from 1; 0 for what has no lines.
        folder: which paths in the value are relative to.
    """

    source: str
    line: int
    folder: Path

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass
class Document:
    """A recipe's values, and where each was written.

    Attributes:
        value: plain data.
        places: of every key of a mapping and every item of a list, by the way to it.
        top: of the document itself.
    """

    value: dict[str, Any]
    places: dict[Where, Place] = field(repr=False)
    top: Place

    def place(self, where: Where) -> Place:
        """Of a value; of what holds it, where it was not written itself."""
        while where and where not in self.places:
            where = where[:-1]
        return self.places.get(where, self.top)

    def set(self, where: Where, value: Any, place: Place) -> None:
        """Lay a value over the document's own. Raises: InputError if there is nothing that could hold it."""
        at: Any = self.value
        for i, step in enumerate(where[:-1]):
            if isinstance(at, dict):
                # A name alone, `method: kd`, is short for `method: {name: kd}`.
                if isinstance(at.get(step), str):
                    at[step] = {"name": at[step]}
                    self.places[(*where[: i + 1], "name")] = self.place(where[: i + 1])
                if step not in at:
                    self.places[where[: i + 1]] = place
                at = at.setdefault(step, {})
            elif isinstance(at, list) and isinstance(step, int) and step < len(at):
                at = at[step]
            else:
                raise InputError(f"{place}: there is no {_dotted(where[: i + 1])} to set a part of.")
        last = where[-1]
        if isinstance(at, list) and not (isinstance(last, int) and last < len(at)):
            raise InputError(f"{place}: {_dotted(where[:-1])} is a list of {len(at)}; give a number below that.")
        if not isinstance(at, dict | list):
            raise InputError(f"{place}: {_dotted(where[:-1])} is {shown(at)}, which has no parts.")
        at[last] = value
        self.places = {w: p for w, p in self.places.items() if w[: len(where)] != where}
        self.places[where] = place


def read(path: Path) -> Document:
    """A recipe's file.

    Raises: InputError if it is not there, no text, too large, or no YAML of the kind that recipes have, with file and line.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, not a recipe.") from None
    except OSError as error:
        raise MachineError(f"{path}: cannot be read: {error.strerror or error}.") from error
    if len(raw) > BYTES:
        raise InputError(f"{path}: is larger than {BYTES // 1024} KB, which no recipe is.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: is no text: byte {raw[error.start]:#04x} is not UTF-8.") from None
    top = Place(str(path), 1, path.parent)
    value, places = _parse(text, top)
    if value is None:
        raise InputError(f"{path}:1: is empty. `understudy init image-classification` prints a recipe to start from.")
    if not isinstance(value, dict):
        raise InputError(f"{path}:1: is {shown(value)}; a recipe is a mapping, such as `task: classification`.")
    return Document(value, places, top)


def read_setting(text: str) -> tuple[Where, Any, Place]:
    """``key=value`` of the command line, where the key's parts are joined by points and the value is YAML."""
    key, equals, value = text.partition("=")
    place = Place(f"--set {shown(text, 60)}", 0, Path())
    where = tuple(int(part) if part.isdecimal() else part for part in key.strip().split("."))
    if not equals or not all(map(str, where)):
        raise InputError(f"{place}: is not of the form key=value, such as method.temperature=2.")
    if len(value) > BYTES:
        raise InputError(f"{place}: the value is larger than {BYTES // 1024} KB.")
    return where, _parse(value, place)[0], place


def shown(value: Any, most: int = 40) -> str:
    """What was typed, for an error: short, on one line.

    >>> shown({"a": 1}), shown("x" * 50, 10), shown(True), shown(None)
    ('a mapping', "'xxxxxxx...'", 'true', 'null')
    """
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    if len(text) <= most + 2:
        return text
    return f"{text[: most - 2]}...{text[0]}" if isinstance(value, str) else f"{text[: most - 2]}..."


def _dotted(where: Where) -> str:
    return ".".join(map(str, where))


def _parse(text: str, top: Place) -> tuple[Any, dict[Where, Place]]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML(typ="safe", pure=True)
    try:
        return _Builder(yaml.resolver, top).build(yaml.parse(text))
    except AssertionError:  # the parser's way to refuse a version that is still to come
        raise InputError(f"{top}: asks for another YAML than 1.2. Leave the line out.") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        told = getattr(error, "problem", None) or "it holds a character that no text has"
        raise InputError(f"{_at(top, mark.line if mark else None)}: is no YAML: {told}.{_hint(str(told))}") from None


def _at(top: Place, line: int | None) -> Place:
    """The line of a file, counted from 0 by the parser; of the command line, the argument."""
    return Place(top.source, line + 1, top.folder) if top.line and line is not None else top


def _hint(problem: str) -> str:
    if "\\t" in problem:
        return " Indent with spaces, not with tabs."
    if "mapping values are not allowed" in problem:
        return " Is a colon inside a text? Put the text in quotes. Or is the line indented too far?"
    if "expected <block end>" in problem:
        return " Is this line indented like those around it?"
    return ""


class _Builder:
    """Values from the parser's events, one by one, so that what is too deep or too much is never built."""

    def __init__(self, resolver: Any, top: Place) -> None:
        self.resolver, self.top = resolver, top
        self.places: dict[Where, Place] = {}
        self.nodes = 0
        self.documents = 0
        self.problems: list[str] = []

    def build(self, events: Iterator[Any]) -> tuple[Any, dict[Where, Place]]:
        """The one document's value."""
        value = None
        for event in events:
            kind = type(event).__name__
            if kind == "DocumentStartEvent":
                self._start(event)
            elif kind not in ("StreamStartEvent", "StreamEndEvent", "DocumentEndEvent"):
                value = self._value(event, events, ())
        raise_all(InputError, self.problems)
        return value, self.places

    def _start(self, event: Any) -> None:
        self.documents += 1
        if self.documents > 1:
            raise InputError(f"{self._place(event)}: begins a second document; a recipe is one.")
        if event.version not in (None, (1, 2)):
            raise InputError(f"{self._place(event)}: asks for another YAML than 1.2. Leave the line out.")

    def _place(self, event: Any) -> Place:
        return _at(self.top, event.start_mark.line)

    def _value(self, event: Any, events: Iterator[Any], where: Where) -> Any:
        kind, place = type(event).__name__, self._place(event)
        self.nodes += 1
        if self.nodes > NODES:
            raise InputError(f"{place}: is the {NODES + 1}th value, which no recipe has.")
        if len(where) >= DEPTH:
            raise InputError(f"{place}: is nested {DEPTH} levels deep, which no recipe is.")
        if kind == "AliasEvent" or event.anchor is not None:
            sign = "*" if kind == "AliasEvent" else "&"
            raise InputError(f"{place}: aliases ({sign}{event.anchor}) are not allowed; write the value out.")
        if event.ctag is not None and str(event.ctag) not in ("", "None"):
            raise InputError(f"{place}: tags ({shown(str(event.ctag))}) are not allowed; leave it out.")
        if kind == "MappingStartEvent":
            return self._mapping(events, where)
        if kind == "SequenceStartEvent":
            return self._list(events, where)
        if found := _UNPRINTABLE.search(event.value):
            raise InputError(f"{place}: holds {found[0]!r}, a character that no text has. Leave it out.")
        return self._scalar(event, place)

    def _mapping(self, events: Iterator[Any], where: Where) -> dict[str, Any]:
        made: dict[str, Any] = {}
        while type(event := next(events)).__name__ != "MappingEndEvent":
            place = self._place(event)
            if type(event).__name__ != "ScalarEvent":
                raise InputError(f"{place}: a key must be a name.")
            self._value(event, events, where)  # for its checks: a key may have no anchor or tag either
            key = event.value
            if key in made:
                before = self.places[(*where, key)]
                self.problems.append(f"{place}: {shown(key)} is given twice, first in line {before.line}. Remove one.")
            self.places[(*where, key)] = place
            made[key] = self._value(next(events), events, (*where, key))
        return made

    def _list(self, events: Iterator[Any], where: Where) -> list[Any]:
        made: list[Any] = []
        while type(event := next(events)).__name__ != "SequenceEndEvent":
            inner = (*where, len(made))
            self.places[inner] = self._place(event)
            made.append(self._value(event, events, inner))
        return made

    def _scalar(self, event: Any, place: Place) -> Any:
        from ruamel.yaml.nodes import ScalarNode

        text: str = event.value
        tag = str(self.resolver.resolve(ScalarNode, text, event.implicit)).rpartition(":")[2]
        if tag == "null":
            return None
        if tag == "bool":
            return text.lower() == "true"
        if tag not in ("int", "float"):
            return text
        try:
            number = _number(text, tag)
        except ValueError:
            number = math.inf
        if not math.isfinite(number) or (abs(number) >= 2**63 and tag == "int"):
            self.problems.append(f"{place}: {shown(text)} is no number that a recipe can hold; give a finite one.")
            return 0
        return number


def _number(text: str, tag: str) -> int | float:
    plain = text.replace("_", "").lower()
    if tag == "int":
        return int(plain, {"0o": 8, "0x": 16, "0b": 2}.get(plain.lstrip("+-")[:2], 10))
    return float(plain.replace(".inf", "inf").replace(".nan", "nan"))
