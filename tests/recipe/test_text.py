"""What a recipe's text may be: YAML 1.2, small, and nothing that stands for something else."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from ruamel.yaml import YAML

from understudy.errors import InputError, MachineError
from understudy.recipe import text as module
from understudy.recipe.text import BYTES, DEPTH, NODES, Document, Place, read, read_setting, shown


def parsed(folder: Path, text: str | bytes) -> Document:
    file = folder / "r.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(file)


def refusal(folder: Path, text: str | bytes) -> str:
    """The error, without the folder's name."""
    with pytest.raises(InputError) as caught:
        parsed(folder, text)
    return str(caught.value).replace(f"{folder}/", "")


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("3e-3", 3e-3), ("1E5", 1e5), (".5", 0.5), ("5.", 5.0), ("-2.5e+3", -2500.0), ("1_000", 1000), ("0x1F", 31),
        ("0o17", 15), ("+3", 3), ("-0", 0), ("010", 10), ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("No", "No"),
        ("y", "y"), ("true", True), ("True", True), ("FALSE", False), ("null", None), ("~", None), ("", None), ("'1'", "1"), ('"true"', "true"),
        ("2024-01-01", "2024-01-01"), ("1:30", "1:30"), ("12e03", 12000.0), ("1e", "1e"), ("$HOME", "$HOME"), ("~/x", "~/x"),
        ("{{x}}", None), ("`id`", None), ("=", "="), ("a b", "a b"), ("é中", "é中"), ('"\\u00e9"', "é"), ("[1, [2]]", [1, [2]]), ("{b: c}", {"b": "c"}),
    ],
)  # fmt: skip
def test_a_scalar_is_what_yaml_1_2_says(tmp_path: Path, text: str, value: Any) -> None:
    if value is None and text not in ("null", "~", ""):
        assert "r.yaml:1: " in refusal(tmp_path, f"a: {text}\n")
        return
    found = parsed(tmp_path, f"a: {text}\n").value["a"]
    assert found == value
    assert type(found) is type(value)


def test_a_parser_of_yaml_1_1_would_have_read_them_otherwise() -> None:
    old = YAML(typ="safe", pure=True)
    old.version = (1, 1)
    told = old.load("{b: no, c: 010, d: 1:30}")
    assert told["b"] is False
    assert told["c"] == 8
    assert told["d"] == 90


def test_a_key_is_a_text_whatever_it_looks_like(tmp_path: Path) -> None:
    assert list(parsed(tmp_path, "1: a\ntrue: b\nnull: c\n").value) == ["1", "true", "null"]


def test_each_value_knows_its_line(tmp_path: Path) -> None:
    document = parsed(tmp_path, "# comment\na: 1\nb:\n  - c: 2\n\n  - d: [3,\n      4]\n")
    lines = {where: place.line for where, place in document.places.items()}
    assert lines[("a",)] == 2
    assert lines[("b",)] == 3
    assert lines[("b", 0, "c")] == 4
    assert lines[("b", 1, "d")] == 6
    assert lines[("b", 1, "d", 1)] == 7
    assert str(document.place(("b", 1, "d", 9))) == f"{tmp_path}/r.yaml:6"
    assert str(document.place(("nothing",))) == f"{tmp_path}/r.yaml:1"


@pytest.mark.parametrize("start", ["", "\ufeff", "---\n", "# comment\n", "%YAML 1.2\n---\n"])
def test_a_document_may_begin_as_documents_do(tmp_path: Path, start: str) -> None:
    assert parsed(tmp_path, f"{start}a: 1\n").value == {"a": 1}


def test_lines_may_end_as_on_windows(tmp_path: Path) -> None:
    document = parsed(tmp_path, b"a: 1\r\nb: 2\r\n")
    assert document.value == {"a": 1, "b": 2}
    assert document.place(("b",)).line == 2


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3\n", "r.yaml:3: 'a' is given twice, first in line 1. Remove one."),
        ("a: {b: 1, b: 2}\n", "r.yaml:1: 'b' is given twice, first in line 1. Remove one."),
        ("a: 1\n'a': 2\n", "r.yaml:2: 'a' is given twice"),
        ("x: 1\na: &b 1\n", "r.yaml:2: aliases (&b) are not allowed; write the value out."),
        ("a: *b\n", "r.yaml:1: aliases (*b) are not allowed"),
        ("&k a: 1\n", "r.yaml:1: aliases (&k) are not allowed"),
        ("a: &m {b: 1}\n", "r.yaml:1: aliases (&m) are not allowed"),
        ("a: !!python/object:os.system x\n", "r.yaml:1: tags ("),
        ("a: !!int '1'\n", "r.yaml:1: tags ("),
        ("a: !x {b: 1}\n", "r.yaml:1: tags ('!x') are not allowed; leave it out."),
        ("!x a: 1\n", "r.yaml:1: tags ('!x') are not allowed"),
        ("!!map\na: 1\n", "tags ("),
        ("a: 1\n---\nb: 1\n", "r.yaml:2: begins a second document; a recipe is one."),
        ("%YAML 1.1\n---\na: 1\n", "asks for another YAML than 1.2. Leave the line out."),
        ("%YAML 1.3\n---\na: 1\n", "asks for another YAML than 1.2"),
        ("? [a]\n: 1\n", "r.yaml:1: a key must be a name."),
        ("? {a: b}\n: 1\n", "r.yaml:1: a key must be a name."),
        ("{a: b}: 1\n", "r.yaml:1: a key must be a name."),
        ("a: .nan\n", "r.yaml:1: '.nan' is no number that a recipe can hold; give a finite one."),
        ("a: -.inf\n", "'-.inf' is no number that a recipe can hold"),
        ("a: 1e999\n", "'1e999' is no number that a recipe can hold"),
        ("a: 9223372036854775808\n", "'9223372036854775808' is no number that a recipe can hold"),
        (f"a: {'9' * 6000}\n", "is no number that a recipe can hold"),
        ("a: 1\n\tb: 2\n", "Indent with spaces, not with tabs."),
        ("a: b: c\n", "r.yaml:1: is no YAML: mapping values are not allowed here. Is a colon inside a text?"),
        ("a: 1\n  b: 2\n", "r.yaml:2: is no YAML"),
        ("a: [1, 2\nb: 3\n", "r.yaml:2: is no YAML"),
        ("a: 'b\n", "is no YAML"),
        ("a:\n  - 1\n b: 2\n", "r.yaml:3: is no YAML"),
        ("a: @x\n", "r.yaml:1: is no YAML"),
        ("", "r.yaml:1: is empty. `understudy init image-classification` prints a recipe to start from."),
        ("# only a comment\n", "r.yaml:1: is empty."),
        ("null\n", "r.yaml:1: is empty."),
        ("just a text\n", "r.yaml:1: is 'just a text'; a recipe is a mapping, such as `task: classification`."),
        ("- a\n", "r.yaml:1: is a list of 1; a recipe is a mapping"),
        ('a: "x\\0y"\n', r"r.yaml:1: holds '\x00', a character that no text has."),
        ('a: 1\nb: "\\e[2J"\n', r"r.yaml:2: holds '\x1b', a character"),
        ('"\\ud800": 1\n', r"r.yaml:1: holds '\ud800', a character"),
        ("a: x\x00y\n", "is no YAML: it holds a character that no text has"),
        ("a: \x1b[2J\n", "is no YAML: it holds a character that no text has"),
    ],
)  # fmt: skip
def test_what_no_recipe_needs_is_refused_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    message = refusal(tmp_path, text)
    assert told in message
    assert message.startswith("r.yaml")
    assert len(message) < 500


def test_all_keys_that_are_there_twice_are_told_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, "a: 1\na: 2\nb: .nan\nc: {d: 1, d: 2}\n")
    assert [line.split(": ")[0] for line in message.split("\n")] == ["r.yaml:2", "r.yaml:3", "r.yaml:4"]


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (bytes(range(256)), "r.yaml"),
        (b"a: 1\nb: \xff\n", "r.yaml:2: is no text: byte 0xff is not UTF-8."),
        ("a: 1\n".encode("utf-16"), "r.yaml:1: is no text: byte 0xff is not UTF-8."),
        ("a: 1\n".encode("utf-16-be"), "r.yaml"),
        ("a: 1\n".encode("utf-32"), "r.yaml:1: is no text: byte 0xff is not UTF-8."),
        (b"\x89PNG\r\n\x1a\n", "r.yaml:1: is no text: byte 0x89 is not UTF-8."),
        (b"PK\x03\x04" + bytes(100), "r.yaml"),
        (b"\x00" * 100, "r.yaml"),
        (b"\xc0\xaf", "r.yaml:1: is no text"),
        (b"\xed\xa0\x80: 1", "r.yaml:1: is no text"),
    ],
    ids=["all bytes", "latin", "utf-16", "utf-16-be", "utf-32", "png", "zip", "nul", "overlong", "surrogate"],
)
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, raw: bytes, told: str) -> None:
    assert told in refusal(tmp_path, raw)


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 10_000 + "]" * 10_000,
        "a: " + "{x: " * 10_000,
        "a: " + "[" * (BYTES - 10),
        "a: " + "]" * (BYTES - 10),
        "".join(" " * min(i, 300) + "a:\n" for i in range(340)),
        "- " * 10_000,
        "? " * 10_000,
        "a: [" + "1," * 10_000 + "1]",
        "".join(f"k{i}: 1\n" for i in range(6000)),
        "a: " + "'" * 30_001,
        "a: " + "!" * 30_000,
        "a: " + "&" * 30_000,
        "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 1000)),
        "# " + "x" * (BYTES - 10) + "\n",
        "a: " + "1" * (BYTES - 10),
        "a: >\n" + " x\n" * 20_000,
    ],
    ids=range(16),
)
def test_what_is_deep_or_long_ends_in_bounded_time_and_memory(tmp_path: Path, text: str) -> None:
    assert len(text) <= BYTES or text.startswith(("a: {x", "- ", "? ", "a: >", "k0"))
    began = perf_counter()
    try:
        parsed(tmp_path, text)
    except InputError as error:
        if not str(error).startswith(f"{tmp_path}/r.yaml"):
            raise
    assert perf_counter() - began < 20  # a bound, not a speed


@pytest.mark.parametrize("text", ["a: " + "[" * (BYTES - 10), "a: [" + "1," * 10_000 + "1]"], ids=["deep", "many"])
def test_what_is_deep_or_long_takes_bounded_memory(tmp_path: Path, text: str) -> None:
    tracemalloc.start()
    refusal(tmp_path, text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50_000_000


def test_ten_thousand_levels_are_refused_where_they_begin_to_be_too_many(tmp_path: Path) -> None:
    assert f"is nested {DEPTH} levels deep, which no recipe is." in refusal(tmp_path, "a: " + "[" * 10_000)
    assert "r.yaml:3" in refusal(tmp_path, "a: 1\nb:\n  " + "[" * 10_000)


def test_megabytes_of_brackets_are_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_parse", lambda *_: pytest.fail("it was parsed"))
    assert refusal(tmp_path, "[" * 5_000_000) == f"r.yaml: is larger than {BYTES // 1024} KB, which no recipe is."


def test_a_recipe_may_be_as_large_as_the_limits_say_and_no_larger(tmp_path: Path) -> None:
    pad = "a: 1\n# "
    assert parsed(tmp_path, pad + "x" * (BYTES - len(pad))).value == {"a": 1}
    assert "is larger than" in refusal(tmp_path, pad + "x" * (BYTES - len(pad) + 1))
    most = DEPTH - 2  # levels below the mapping and its key
    assert parsed(tmp_path, "a: " + "[" * most + "]" * most).value
    assert "levels deep" in refusal(tmp_path, "a: " + "[" * DEPTH + "]" * DEPTH)
    items = NODES - 3  # beside the mapping, the key and the list
    assert len(parsed(tmp_path, "a: [" + "1," * items + "]").value["a"]) == items
    assert f"is the {NODES + 1}th value" in refusal(tmp_path, "a: [" + "1," * (items + 1) + "]")


def test_without_its_limits_it_would_take_what_is_too_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEPTH", 10**9)
    assert parsed(tmp_path, "a: " + "[" * 60 + "]" * 60).value


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.yaml: there is no such file\."):
        read(tmp_path / "nothing.yaml")
    with pytest.raises(InputError, match="is a folder, not a recipe"):
        read(tmp_path)
    with pytest.raises(MachineError, match="cannot be read: "):
        read(tmp_path / ("x" * 300))


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is none on this system")
def test_an_endless_file_is_refused() -> None:
    with pytest.raises(InputError, match="is larger than 64 KB"):
        read(Path("/dev/zero"))


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "where", "value"),
    [
        ("epochs=40", ("epochs",), 40),
        ("method.temperature=1e-3", ("method", "temperature"), 1e-3),
        ("terms.0.at=[student, teacher]", ("terms", 0, "at"), ["student", "teacher"]),
        ("device=cpu", ("device",), "cpu"),
        ("accept={accuracy: '>= 0.9'}", ("accept",), {"accuracy": ">= 0.9"}),
        ("export=", ("export",), None),
        ("x=a=b", ("x",), "a=b"),
        ("x=$HOME", ("x",), "$HOME"),
    ],
)
def test_a_setting_is_a_way_and_yaml(text: str, where: tuple[Any, ...], value: Any) -> None:
    assert read_setting(text)[:2] == (where, value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epochs", "is not of the form key=value, such as method.temperature=2."),
        ("=1", "is not of the form key=value"),
        ("a..b=1", "is not of the form key=value"),
        ("a=[1", "is no YAML"),
        ("a=*b", "aliases (*b) are not allowed"),
        ("a=" + "x" * (BYTES + 1), "the value is larger than 64 KB."),
        ("a=" + "[" * 10_000, "levels deep"),
        ('a="\\0"', "a character that no text has"),
    ],
)
def test_a_setting_that_is_none_is_refused(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        read_setting(text)
    assert told in str(caught.value)
    assert str(caught.value).startswith("--set ")
    assert len(str(caught.value)) < 500


def laid(document: Document, text: str) -> Document:
    document.set(*read_setting(text))
    return document


def test_a_setting_lies_over_the_recipes_value_and_has_its_own_place(tmp_path: Path) -> None:
    document = laid(parsed(tmp_path, "a: {b: {c: 1}, d: 2}\n"), "a.b.c=3")
    assert document.value == {"a": {"b": {"c": 3}, "d": 2}}
    assert str(document.place(("a", "b", "c"))) == "--set 'a.b.c=3'"
    assert document.place(("a", "d")).line == 1


def test_a_setting_makes_what_is_not_there(tmp_path: Path) -> None:
    assert laid(parsed(tmp_path, "a: 1\n"), "b.c=2").value == {"a": 1, "b": {"c": 2}}


def test_an_option_of_what_is_given_by_its_name_alone_can_be_set(tmp_path: Path) -> None:
    document = laid(parsed(tmp_path, "x: 1\nmethod: kd\n"), "method.alpha=1")
    assert document.value["method"] == {"name": "kd", "alpha": 1}
    assert document.place(("method", "name")).line == 2


def test_a_whole_value_takes_the_places_of_its_parts_away(tmp_path: Path) -> None:
    document = laid(parsed(tmp_path, "a:\n  b: 1\n"), "a=2")
    assert document.place(("a", "b")).source == "--set 'a=2'"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a.1=5", "a is a list of 1; give a number below that."),
        ("a.b=5", "a is a list of 1; give a number below that."),
        ("a.7.c=5", "there is no a.7 to set a part of."),
        ("b.c=5", "b is 3, which has no parts."),
    ],
)
def test_a_setting_of_what_is_not_there_is_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InputError, match=r"^--set ") as caught:
        laid(parsed(tmp_path, "a: [1]\nb: 3\n"), text)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (True, "true"), (None, "null"), ({}, "an empty mapping"), ({"a": 1}, "a mapping"), ([], "an empty list"), ([1, 2], "a list of 2"),
        ("x" * 100, "'" + "x" * 37 + "...'"), ("a\nb", "'a\\nb'"), (10**30, str(10**30)), (0.1, "0.1"),
    ],
)  # fmt: skip
def test_what_was_typed_is_shown_short_and_on_one_line(value: Any, told: str) -> None:
    assert shown(value) == told


def test_a_place_without_lines_is_its_source() -> None:
    assert str(Place("--seed 3", 0, Path())) == "--seed 3"
    assert str(Place("r.yaml", 3, Path())) == "r.yaml:3"
