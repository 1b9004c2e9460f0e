from pathlib import Path

import click
import pytest

from understudy.cli import EXIT_CODES, program
from understudy.cli.reference import reference, with_parts

PAGE = Path(__file__).parents[2] / "docs/cli.md"


def test_the_page_is_what_the_program_says() -> None:
    assert PAGE.read_text() == reference(), "make it again: python -m understudy.cli.reference > docs/cli.md"


def test_the_page_has_every_verb_option_example_and_exit_code() -> None:
    told = reference()
    for verb, command in (made for pair in program.commands.items() for made in with_parts(*pair)):
        part = told[told.index(f"\n## {verb}\n") :].partition("\n## ")[2].partition("\n## ")[0]
        assert f"understudy {verb} " in part.partition("```sh")[2]
        for option in (p for p in command.params if isinstance(p, click.Option)):
            assert f"| `{option.opts[0]}" in part
            assert option.help is not None
            assert option.help in part
    assert all(f"| {code} | {meaning} |" in told for code, meaning in EXIT_CODES.items())


def test_it_does_not_depend_on_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    told = reference()
    monkeypatch.setenv("COLUMNS", "40")
    assert reference() == told


def test_control_another_option_changes_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    command = program.commands["report"]
    added = click.Option(["--colour"], help="Of the page.")
    monkeypatch.setattr(command, "params", [*command.params, added])
    assert "| `--colour TEXT` | Of the page. |" in reference()
    assert reference() != PAGE.read_text()
