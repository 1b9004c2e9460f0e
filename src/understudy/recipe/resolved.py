"""A recipe with every value that a run uses, and where each comes from."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from understudy.recipe.forms import branch, entry_kind, fields_of, inner
from understudy.recipe.frame import Recipe, TermOf
from understudy.recipe.text import Document, Where
from understudy.registry import Option, entry

__all__ = ["Resolved", "resolve"]

DEFAULT = "default"


@dataclass
class Resolved:
    """The values in full: names as mappings, defaults filled in, paths relative to where one is.

    Attributes:
        value: plain data.
        origins: of each value that is no mapping and no list of mappings: a file's line, an argument, or "default".
        paths: which values are paths.
        left_out: what was not looked at, because it is not valid.
    """

    value: dict[str, Any] = field(default_factory=dict)
    origins: dict[Where, str] = field(default_factory=dict)
    paths: set[Where] = field(default_factory=set)
    left_out: frozenset[Where] = frozenset()

    def text(self) -> str:
        """As a recipe that gives the same run from any folder, with the origin of each value beside it."""
        rows = list(self._lines(self.value, (), ""))
        width = min(72, max(len(line) for line, _ in rows))
        return "".join(f"{line.ljust(width)}  # {told}\n" if told else f"{line}\n" for line, told in rows)

    def differences(self, other: Mapping[str, Any], free: Iterable[str]) -> list[str]:
        """What another recipe has otherwise, in words; keys in ``free`` may differ."""
        then, now = (dict(_leaves(v, ())) for v in (other, json.loads(json.dumps(self._absolute(self.value, ())))))
        changed = [w for w in {**then, **now} if then.get(w) != now.get(w) and w[0] not in free]
        told = {w: f" ({self.origins[w]})" for w in changed if w in self.origins}
        return [f"{'.'.join(map(str, w))} was {then.get(w)!r} and is {now.get(w)!r}{told.get(w, '')}" for w in changed]

    def plain(self) -> dict[str, Any]:
        """The values with paths that are good from any folder."""
        made: dict[str, Any] = self._absolute(self.value, ())
        return made

    def fill(self, where: Where, value: Any) -> None:
        """A value that only the data tells, where the recipe leaves it out."""
        at: Any = self.value
        for part in where[:-1]:
            at = at[part]
        if at.get(where[-1]) is None and value is not None:
            at[where[-1]] = value
            self.origins[where] = "data"

    def _lines(self, value: Any, where: Where, indent: str) -> Iterator[tuple[str, str]]:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in items:
            inside = (*where, key)
            lead = f"{indent}{_scalar(key)}:" if isinstance(value, dict) else f"{indent}-"
            if (isinstance(part, dict) and part) or (isinstance(part, list) and any(isinstance(p, dict) for p in part)):
                yield lead, ""
                yield from self._lines(part, inside, indent + "  ")
            else:
                yield (
                    f"{lead} {_scalar(self._absolute(part, inside))}",
                    self.origins.get(inside, self.origins.get(where, "")),
                )

    def _absolute(self, value: Any, where: Where) -> Any:
        if where in self.paths and isinstance(value, str):
            return str(Path(value).resolve())
        if isinstance(value, dict):
            return {k: self._absolute(v, (*where, k)) for k, v in value.items()}
        return [self._absolute(v, (*where, i)) for i, v in enumerate(value)] if isinstance(value, list) else value


def _scalar(value: Any) -> str:
    """As YAML on one line: JSON, but for plain words."""
    plain = isinstance(value, str) and value.replace("_", "a").replace("-", "a").isalnum() and value[0].isalpha()
    if plain and value.lower() not in ("null", "true", "false"):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _leaves(value: Any, where: Where) -> Iterator[tuple[Where, Any]]:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _leaves(part, (*where, key))
    else:
        yield where, value


def resolve(document: Document, leave_out: Iterable[Where] = ()) -> Resolved:
    """Fill in what is not given. The document must be valid, but for what is left out: keys, or single terms."""
    filling = _Filling(document, Resolved(left_out=frozenset(leave_out)))
    keys = {key: option for key, option in fields_of(Recipe).items() if (key,) not in filling.made.left_out}
    given = dict(document.value)
    if given.get("method") is None and given.get("terms") is None:
        given["method"] = "kd"
    filling.made.value = filling.options(keys, given, ())
    return filling.made


@dataclass
class _Filling:
    document: Document
    made: Resolved

    def options(self, options: Mapping[str, Option], given: Mapping[str, Any], where: Where) -> dict[str, Any]:
        """Those that are given, and the defaults of the others; a default of an entry that is nothing goes without saying."""
        made = {}
        for name, option in options.items():
            inside = (*where, name)
            if name in given and given[name] is not None:
                made[name] = self.value(option.annotation, given[name], inside)
            elif name in given and option.default is not None and type(None) in typing.get_args(option.annotation):
                made[name] = None  # which is another thing than the default
                self.made.origins[inside] = self._origin(inside)
            elif name in given or not option.required:
                default = list(option.default) if isinstance(option.default, tuple) else option.default
                if isinstance(default, bool | int | float | str | dict | list):
                    made[name] = self.value(option.annotation, default, inside)
                elif default is None and not where:
                    made[name] = None
                    self.made.origins[inside] = self._origin(inside)
        return made

    def value(self, annotation: Any, value: Any, where: Where) -> Any:
        """One value, and all that is in it."""
        parts = typing.get_args(annotation)
        words = [word for part in parts if typing.get_origin(part) is typing.Literal for word in typing.get_args(part)]
        if isinstance(value, str) and value not in words and any(entry_kind(a) for a in (annotation, *parts)):
            self.made.origins[(*where, "name")] = self._origin(where)
            value = {"name": value}
        if isinstance(value, str) and Path in parts and str in parts:  # a folder, if there is one; else a name
            annotation = Path if (self.document.place(where).folder / value).exists() else str
        annotation = branch(annotation, value)
        kind = entry_kind(annotation)
        if kind == "term":
            return self.options({**fields_of(TermOf), **entry("loss", value["loss"]).options}, value, where)
        if kind is not None:
            self.made.origins.setdefault((*where, "name"), self._origin((*where, "name")))
            return {"name": value["name"], **self.options(entry(kind, value["name"]).options, value, where)}
        if dataclasses.is_dataclass(annotation):
            return self.options(fields_of(typing.cast("type", annotation)), value, where)
        if isinstance(value, list | dict):
            made = {
                k: self.value(a, v, (*where, k))
                for k, a, v in inner(annotation, value)
                if (*where, k) not in self.made.left_out
            }
            self.made.origins[where] = self._origin(where)
            return list(made.values()) if isinstance(value, list) else made
        self.made.origins[where] = self._origin(where)
        if annotation is Path:
            self.made.paths.add(where)
            return str(self.document.place(where).folder / value)
        return value

    def _origin(self, where: Where) -> str:
        """The place of the value, or of what it is a part of; of what was not written, the default."""
        written: Any = self.document.value
        for part in where:
            if not (
                (isinstance(written, dict) and part in written)
                or (isinstance(written, list) and isinstance(part, int) and part < len(written))
            ):
                return str(self.document.place(where)) if isinstance(written, str) else DEFAULT
            written = written[part]
        return str(self.document.place(where))
