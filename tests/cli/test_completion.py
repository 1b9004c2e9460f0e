"""What a shell is told when it asks."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from understudy import methods
from understudy.cli import program
from understudy.cli.listing import KINDS
from understudy.recipe.ready import ready, templates

from .calls import call

SHELLS = ("bash", "zsh", "fish")


def ask(shell: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """The completions of the last word."""
    monkeypatch.setenv("_UNDERSTUDY_COMPLETE", f"{shell}_complete")
    if shell == "fish":
        monkeypatch.setenv("COMP_WORDS", " ".join(["understudy", *words[:-1]]))
        monkeypatch.setenv("COMP_CWORD", words[-1])
    else:
        monkeypatch.setenv("COMP_WORDS", " ".join(["understudy", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
    told = call()
    assert (told.code, told.err) == (0, "")
    lines = told.out.splitlines() if told.out.strip() else []
    if shell == "zsh":  # kind, value, help
        return [value for kind, value in zip(lines[::3], lines[1::3], strict=True) if kind == "plain"]
    found = [line.split(",", 1) for line in lines if "," in line]
    return [value.split("\t")[0] for kind, value in found if kind == "plain"]


@pytest.mark.parametrize("shell", SHELLS)
def test_verbs_options_and_names_are_completed(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*words: str) -> set[str]:
        return set(ask(shell, monkeypatch, *words))

    assert asked("") == set(program.commands)
    assert asked("e") == {"eval", "export"}
    for verb, command in program.commands.items():
        options = {name for p in command.params if isinstance(p, click.Option) for name in p.opts}
        assert asked(verb, "--") == {*options, "--help"}
    assert asked("run", "") == ready().keys()
    assert asked("check", "digits-") == {"digits-all-labels", "digits-hints"}
    assert asked("list", "") == {*KINDS, "recipes", "layers", "targets"}
    assert asked("list", "layers", "digits-h") == {"digits-hints"}
    assert asked("list", "recipes", "c") == {"compare", "csv"}
    assert asked("list", "methods", "k") == {name for name in methods.__all__ if name.startswith("k")} >= {"kd"}
    assert asked("list", "optimizers", "S") == set()
    assert asked("init", "") == templates().keys()
    assert asked("data", "di") == {"diabetes", "digits", "digits-attributes"}
    assert asked("eval", "runs/x", "--on", "") == {"train", "valid", "test"}
    assert asked("completion", "") == set(SHELLS)


def test_files_and_folders_are_left_to_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_UNDERSTUDY_COMPLETE", "bash_complete")
    for words, kind in (
        ("run ", "file"),
        ("eval ", "dir"),
        ("run x --out ", "dir"),
        ("run x --plugin ", "file"),
        ("export ", "dir"),
        ("data digits ", "dir"),
    ):
        monkeypatch.setenv("COMP_WORDS", f"understudy {words}")
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) + 1))
        assert f"{kind}," in call().out.splitlines()


@pytest.mark.parametrize("shell", SHELLS)
def test_what_is_printed_is_what_the_shell_reads(shell: str, tmp_path: Path) -> None:
    told = call("completion", shell)
    assert (told.code, told.err) == (0, "")
    assert f"_UNDERSTUDY_COMPLETE={shell}_complete" in told.out
    binary = shutil.which(shell)
    if binary is not None:
        (tmp_path / "script").write_text(told.out)
        subprocess.run([binary, "-n", "script"], check=True, cwd=tmp_path)


def test_bash_completes_with_it(tmp_path: Path) -> None:
    script = f"""
{call("completion", "bash").out}
COMP_WORDS=(understudy ch); COMP_CWORD=1
understudy() {{ :; }}
_understudy_completion "{shutil.which("understudy") or "understudy"}" ch understudy
echo "${{COMPREPLY[@]}}"
"""
    binary: Any = shutil.which("bash")
    if binary is None or shutil.which("understudy") is None:
        pytest.skip("needs bash, and understudy on the path")
    done = subprocess.run([binary, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "check"
