"""HTML as a tree, with everything that is wrong with it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list["Element | str"] = field(default_factory=list)

    def all(self, tag: str | None = None, **attributes: str) -> Iterator["Element"]:
        for child in self.children:
            if isinstance(child, Element):
                if tag in (None, child.tag) and attributes.items() <= child.attributes.items():
                    yield child
                yield from child.all(tag, **attributes)

    def one(self, tag: str | None = None, **attributes: str) -> "Element":
        (found,) = self.all(tag, **attributes)
        return found

    @property
    def text(self) -> str:
        return " ".join("".join(self.pieces()).split())

    def pieces(self) -> Iterator[str]:
        for child in self.children:
            if isinstance(child, str):
                yield child
            else:
                yield from child.pieces()


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("")
        self.open = [self.root]
        self.problems: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(set(names)) < len(names):
            self.problems.append(f"<{tag}> has an attribute twice: {names}")
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if self.open[-1].tag != tag:
            self.problems.append(f"</{tag}> closes <{self.open[-1].tag}>")
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(html: str) -> tuple[Element, list[str]]:
    """The tree, and what is wrong: tags that do not match, ids that are there twice, references to none."""
    reader = Reader()
    reader.feed(html)
    reader.close()
    problems = reader.problems + [f"<{element.tag}> stays open" for element in reader.open[1:]]
    elements = list(reader.root.all())
    ids = [element.attributes["id"] for element in elements if "id" in element.attributes]
    problems += [f"id {name} is there twice" for name in sorted({name for name in ids if ids.count(name) > 1})]
    for element in elements:
        asked = element.attributes.get("aria-labelledby", "").split()
        asked += [
            name[1:] for key in ("href", "xlink:href") if (name := element.attributes.get(key, "")).startswith("#")
        ]
        asked += [name for value in element.attributes.values() for name in re.findall(r"url\(#([^)]+)\)", value)]
        problems += [f"<{element.tag}> refers to {name}, which is not there" for name in asked if name not in ids]
    return reader.root, problems


def tree(html: str) -> Element:
    root, problems = parse(html)
    assert problems == []
    return root


def fetched(html: str) -> list[str]:
    """Everything that would be loaded from elsewhere."""
    root, _ = parse(html)
    found = re.findall(r"@import[^;]*|url\((?!#)[^)]*\)", html)
    for element in root.all():
        if element.tag in ("link", "iframe", "object", "embed", "base"):
            found.append(element.tag)
        for key, value in element.attributes.items():
            if key in ("src", "srcset", "href", "xlink:href", "action", "data", "poster") and not value.startswith(
                ("#", "data:")
            ):
                found.append(value)
    return found + re.findall(r"(?:https?:|ws:|wss:|ftp:)?//[\w.-]+\.\w+", html)
