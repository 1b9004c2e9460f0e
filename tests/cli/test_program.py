"""What holds for every verb."""

import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import click
import pytest

from understudy import errors
from understudy.cli import EXIT_CODES, main, program
from understudy.cli.given import resumable
from understudy.cli.reference import with_parts
from understudy.cli.run import NOT_ACCEPTED
from understudy.errors import Interrupted

from .calls import Answer, call, environment, process, too_wide

VERBS = list(program.commands)

LAID_OVER = {"--set", "--plugin"}
FLAGS = {
    "demo": {"--seeds", "--out"},
    "init": {"TASK"},
    "check": {"RECIPE", *LAID_OVER, "--json"},
    "compare": {
        "RECIPE",
        *LAID_OVER,
        "--ways",
        "--ladder",
        "--price-per-hour",
        "--budget",
        "--methods",
        "--tune",
        "--seeds",
        "--epochs",
        "--out",
        "--resume",
        "--json",
    },
    "tune": {"RECIPE", *LAID_OVER, "--trials", "--budget", "--over", "--objective", "--out", "--resume", "--json"},
    "run": {"RECIPE", *LAID_OVER, "--seed", "--out", "--resume", "--require", "--json"},
    "eval": {"RUN", "--on", "--file", *LAID_OVER, "--json"},
    "export": {"RUN", "--to", "--target", "--vendor", *LAID_OVER, "--json"},
    "bench": {
        "RUN|FILE...",
        "--batch",
        "--threads",
        "--runs",
        "--deadline",
        "--budget",
        "--shape",
        "--plugin",
        "--json",
    },
    "report": {"RUN", "--out"},
    "store": set(),
    "store build": {"RECIPE", "FOLDER", "--encoding", *LAID_OVER, "--json"},
    "store verify": {"FOLDER", "--recipe", "--rows", *LAID_OVER, "--json"},
    "store info": {"FOLDER", "--json"},
    "list": {"WHAT", "--family", "[NAME]", *LAID_OVER, "--json"},
    "data": {"NAME", "FOLDER"},
    "schema": {"--plugin"},
    "completion": {"SHELL"},
}
"""Scripts rely on these: whatever goes or is renamed is told in the CHANGELOG."""


def flags(command: click.Command) -> set[str]:
    context = click.Context(command)
    return {n for p in command.params for n in (p.opts if isinstance(p, click.Option) else [p.make_metavar(context)])}


def test_verbs_and_their_flags_are_these() -> None:
    found = {name: made for verb, command in program.commands.items() for name, made in with_parts(verb, command)}
    assert {name: flags(command) for name, command in found.items()} == FLAGS


def test_control_another_flag_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    command = program.commands["report"]
    monkeypatch.setattr(command, "params", [*command.params, click.Option(["--colour"])])
    assert flags(command) - FLAGS["report"] == {"--colour"}


@pytest.mark.parametrize("verb", [*VERBS, None])
@pytest.mark.parametrize("columns", [80, 100, 200])
def test_help_shows_examples_and_fits(verb: str | None, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    told = call(*filter(None, [verb]), "--help")
    assert told.code == 0
    assert too_wide(told.out, min(columns, 100)) == []
    assert re.search(rf"^  (Examples|Start here):\n    .*understudy {verb or 'demo'}\b", told.out, re.MULTILINE)
    assert told.out == call(*filter(None, [verb]), "-h").out


def test_control_what_does_not_fit_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program.commands["init"], "epilog", f"\b\nExamples:\n  understudy init {'x' * 80}")
    assert len(too_wide(call("init", "--help").out)) == 1
    assert too_wide("short\ncut off…\n") == ["cut off…"]


def test_no_summary_of_a_verb_is_cut() -> None:
    told = call("--help").out
    assert "..." not in told.replace("VERB ...", "")
    assert all(re.search(rf"^  {verb} +\S.+\.$", told, re.MULTILINE) for verb in VERBS)


def test_every_examples_options_exist() -> None:
    for verb, command in program.commands.items():
        examples = re.findall(rf"understudy {verb} (.*)", command.epilog or "")
        assert set(re.findall(r"--[\w-]+", " ".join(examples))) <= FLAGS[verb]


def test_without_a_verb_it_shows_the_help_as_an_error() -> None:
    told = call()
    assert (told.code, told.out) == (2, "")
    assert told.err.strip() == call("--help").out.strip()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["chekc"], "check"),
        (["Run", "x"], "run"),
        (["--debg"], "--debug"),
        (["run", "digits", "--resum"], "--resume"),
        (["eval", "x", "--jsn"], "--json"),
        (["list", "losss"], "losses"),
        (["init", "tabular-clasification"], "tabular-classification"),
        (["data", "diabets", "x"], "diabetes"),
    ],
)
def test_what_is_misspelt_gets_a_suggestion(typed: list[str], meant: str) -> None:
    told = call(*typed)
    assert (told.code, told.out) == (2, "")
    # Which words click puts around the nearest option changes with its version.
    assert re.search(rf"Did you mean.*'?{meant}\b", told.err)


@pytest.mark.parametrize("typed", [["nonsense"], ["list", "zzz"], ["init", "zzz"]])
def test_where_nothing_is_near_all_that_is_allowed_is_told(typed: list[str]) -> None:
    assert "Allowed: " in call(*typed).err


# -- the process -------------------------------------------------------------------------------------------------------


def test_the_console_script_and_the_module_are_the_same() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="understudy")
    assert script.load() is main
    path = Path(sysconfig.get_path("scripts")) / "understudy"
    for arguments in (["--version"], ["list", "recipes", "--json"], ["chekc"], ["run", "nope.yaml"], []):
        assert process(*arguments) == process(*arguments, program=(str(path),))


LIGHT = """
import sys
from understudy.cli import main
for arguments in {calls!r}:
    main(arguments)
print([name for name in ("torch", "numpy", "ruamel", "rich") if name in sys.modules])
"""


def loaded(*calls: list[str]) -> str:
    return process(program=("-W", "error", "-c", LIGHT.format(calls=calls))).out.splitlines()[-1]


def test_help_version_init_completion_and_the_list_of_recipes_do_not_wait_for_torch() -> None:
    helps = [[verb, "--help"] for verb in VERBS]
    quick = [["--help"], ["--version"], ["init", "multi-label"], ["completion", "bash"], ["list", "recipes", "--json"]]
    assert loaded(*helps, *quick, ["list", "recipes", "digits"], ["chekc"]) == "[]"


def test_control_a_verb_that_needs_torch_is_seen_to_load_it() -> None:
    assert "'torch'" in loaded(["list", "losses"])


CLOSED = [["list", "losses"], ["list", "recipes"], ["--help"], ["schema"], ["list", "recipes", "--json"]]


@pytest.mark.parametrize("arguments", CLOSED, ids=" ".join)
def test_a_reader_who_has_seen_enough_is_no_error(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "understudy", *arguments], stdout=writer, stderr=subprocess.PIPE, env=environment()
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("arguments", [["list", "recipes"], ["init", "multi-label"]], ids=" ".join)
def test_an_output_that_cannot_be_written_is_the_machines_fault(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "understudy", *arguments], stdout=full, stderr=subprocess.PIPE, env=environment()
        )
    assert (done.returncode, done.stderr) == (4, b"the output: No space left on device.\n")


# -- errors ------------------------------------------------------------------------------------------------------------


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(**options: Any) -> None:
        raise error

    monkeypatch.setattr(program.commands["init"], "callback", fail)


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.UnderstudyError)]


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in (errors.UnderstudyError, errors.MissingExtra)])
@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_an_error_is_a_line_and_its_exit_code_and_a_traceback_only_with_debug(
    kind: type[errors.UnderstudyError], debug: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    raising(monkeypatch, kind("my.yaml:3: this is wrong."))
    for arguments in (["init", "multi-label", *debug], [*debug, "init", "multi-label"]):
        assert main(arguments) == kind.exit_code
        out, err = capsys.readouterr()
        assert out == ""
        assert err.endswith("my.yaml:3: this is wrong.\n")
        assert (err == "my.yaml:3: this is wrong.\n") == (not debug)
        assert ("Traceback" in err) == bool(debug)


def test_every_exit_code_of_an_error_has_its_words() -> None:
    assert EXIT_CODES.keys() == {0, NOT_ACCEPTED} | {kind.exit_code for kind in KINDS}


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (PermissionError(13, "Permission denied", "/root/x"), 4, "'/root/x': Permission denied."),
        (MemoryError("no"), 4, "the memory is not enough: no. A smaller batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 4, "the memory is not enough"),
        (KeyboardInterrupt(), 5, "stopped."),
    ],
    ids=lambda v: type(v).__name__,
)
def test_the_machines_errors_are_lines_too(
    error: BaseException, code: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(monkeypatch, error)
    answer = call("init", "multi-label")
    assert answer.code == code
    assert answer.err.startswith(told)


def test_a_bug_of_ours_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, ZeroDivisionError("oh"))
    with pytest.raises(ZeroDivisionError):
        main(["init", "multi-label"])
    told = process(program=("-c", f"import sys; from understudy.cli import *; {BUG}; sys.exit(main(['report', 'x']))"))
    assert (told.code, told.out) == (1, "")
    assert "Traceback" in told.err
    assert told.err.endswith("ZeroDivisionError: division by zero\n")


BUG = "program.commands['report'].callback = lambda **options: 1 / 0"


def test_sigterm_ends_a_verb_as_ctrl_c_does_and_the_handler_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(**options: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.sigtimedwait([], 5)

    monkeypatch.setattr(program.commands["init"], "callback", wait)
    before = signal.getsignal(signal.SIGTERM)
    assert call("init", "multi-label") == Answer(5, "", "stopped.\n")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BrokenPipeError(), Interrupted("after step 3")], ids=repr)
def test_whoever_stops_a_run_is_told_how_to_go_on(error: BaseException, tmp_path: Path) -> None:
    folder = tmp_path / "a run"
    with pytest.raises(type(error)), resumable(folder):
        raise error
    folder.mkdir()
    (folder / "recipe.yaml").touch()
    with (
        pytest.raises(Interrupted, match=re.escape(f"understudy run '{folder}' --resume --plugin m.py")),
        resumable(folder, ["m.py"]),
    ):
        raise error


@pytest.mark.parametrize("name", ["x" * 5000, "\udcff.yaml", "a\nb", "-", " ", "..", "\u202e"])
@pytest.mark.parametrize("verb", ["check", "eval", "report"])
def test_an_odd_name_of_a_file_is_a_sentence(verb: str, name: str) -> None:
    told = call(verb, name)
    assert told.code in (2, 4)
    assert told.err.strip()
