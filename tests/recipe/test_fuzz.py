"""Recipes that a monkey wrote: each ends with a sentence, in bounded time, and nothing but the test's folder is touched."""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

import understudy
from understudy.cli import main
from understudy.data.written import write_example
from understudy.errors import UnderstudyError
from understudy.recipe.examine import examine
from understudy.recipe.ready import ready, templates
from understudy.recipe.text import read

BOUND = 20.0
"""Seconds that one recipe may take. The slowest takes about one: the bound is for what would never end."""

DATA = ("breast-cancer", "diabetes", "digits", "digits-attributes")

# -- mutation ----------------------------------------------------------------------------------------------------------

HOSTILE = (
    "0", "-1", "1", "2", "100000000", "1000000000000", "9223372036854775807", "-9223372036854775808", "99999999999999999999", "1e-300",
    "1e300", "-1e300", "0.5", "-0.0", ".nan", ".inf", "-.inf", "1_000", "0x10", "0o17", "1e-3", "true", "no", "null", "~", '""', "' '",
    "../../etc/passwd", "/etc/passwd", "/dev/zero", "/dev/random", "/dev/stdin", "/proc/self/mem", ".", "..", "/", "~/x", "$HOME",
    "file:///etc/passwd", "https://example.com/x", "os.system", "__import__('os').system('true')", "{{7*7}}", "`id`", "$(id)", "| id",
    '"\\0"', '"\\e[2J"', '"\\ud800"', '"a\\nb"', "\u202e", "\u00e9\u4e2d", "x" * 5000, '"' + "/0" * 5000 + '"', "[" * 50 + "]" * 50,
    "[]", "{}", "[[]]", "[1, 2, 3]", "[a, b]", "{a: b}", "{name: x}", "{name: {name: {name: x}}}", "&a 1", "*a", "!!python/object:os.system 1",
    "!x 1", "? a", "- 1", "@", "%", "'", '"', "digits", "csv", "npz", "images", "CNN", "MLP", "ResNet", "kd", "fitnets", "alone", "kl", "mse",
    "AdamW", "SGD", "LBFGS", "Muon", "Adagrad", "Conv1x1", "Linear", "cosine", "linear", "constant", "student", "teacher", "batch.label",
    "stop student", "student.layer1", "teacher.layer9", "student.layer2#0", "student:head.weight", "cpu", "cuda", "meta", "mps", "cuda:99",
    "regression", "multi-label", "classification", "deploy.onnx", "teacher/x", "{name: constant, value: 1e300}",
    "{name: linear, start: 1, end: .nan}", "{name: steps_at, milestones: [0.5]}", "{name: CNN, channels: 2}", "{name: MLP, hidden: [2]}",
    "{name: ResNet, channels: 1, blocks: [100000000]}", "{name: digits, labelled: 1}", "{name: digits, train: 20, valid: 1777}",
    "{name: fitnets, student_layer: layer1, teacher_layer: layer2}", "{name: SGD, lr: 0.1, momentum: 2}", "{name: Adam, lr: 1e300}",
    "[{loss: kl, at: [student, teacher]}]", "[{loss: mse, at: [student.layer1, teacher.layer1], project: Conv1x1}]", "{accuracy: '>= 2'}",
    ">= 0.5 * teacher", ">= " + "9" * 400,
)  # fmt: skip
KEYS = (
    "name", "task", "data", "student", "teacher", "model", "method", "terms", "epochs", "seeds", "seed", "batch_size", "optimizer", "fine_tune",
    "accept", "report", "export", "device", "threads", "weights", "train", "valid", "test", "label", "labelled", "channels", "hidden", "blocks",
    "temperature", "alpha", "lr", "schedule", "warmup", "clip", "loss", "at", "weight", "project", "mask", "inputs", "classes", "size", "kind",
    "unlabelled", "ignore", "categorical", "delimiter", "dropout", "config", "type", "", "<<", "__class__", "0", "null", "[a]", '"\\0"', "x" * 300,
)  # fmt: skip
SCALAR = re.compile(r"(?<=[:\[,\-] )[^\s\[\]{},#:][^\[\]{},#\n]*(?=[,\]}\s]|$)", re.MULTILINE)
KEY = re.compile(r"[\w-]+(?=:)")


def _line(rng: random.Random, text: str) -> tuple[list[str], int]:
    lines = text.splitlines(keepends=True) or [""]
    return lines, rng.randrange(len(lines))


def delete(rng: random.Random, text: str) -> str:
    lines, at = _line(rng, text)
    return "".join(lines[:at] + lines[at + 1 :])


def duplicate(rng: random.Random, text: str) -> str:
    lines, at = _line(rng, text)
    return "".join([*lines[: at + 1], *lines[at:]])


def swap(rng: random.Random, text: str) -> str:
    lines, a = _line(rng, text)
    b = rng.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]
    return "".join(lines)


def _replaced(rng: random.Random, text: str, pattern: re.Pattern[str], values: tuple[str, ...]) -> str:
    found = [m for m in pattern.finditer(text) if "yaml-language-server" not in text[: m.end()].rpartition("\n")[2]]
    if not found:
        return text
    m = rng.choice(found)
    return text[: m.start()] + rng.choice(values) + text[m.end() :]


def change(rng: random.Random, text: str) -> str:
    return _replaced(rng, text, SCALAR, HOSTILE)


def rename(rng: random.Random, text: str) -> str:
    return _replaced(rng, text, KEY, KEYS)


def misspell(rng: random.Random, text: str) -> str:
    at = rng.randrange(len(text) + 1)
    return (
        text[:at] + rng.choice(("", "x", ":", "-", "[", "}", "\t", "#", '"', "&", "*")) + text[at + rng.randrange(2) :]
    )


def noise(rng: random.Random, text: str) -> str:
    at = rng.randrange(len(text) + 1)
    return (
        text[:at]
        + "".join(
            chr(rng.choice((rng.randrange(32), rng.randrange(128, 256), rng.randrange(0xFFFF)))) for _ in range(3)
        )
        + text[at:]
    )


def indent(rng: random.Random, text: str) -> str:
    lines, at = _line(rng, text)
    lines[at] = rng.choice((f"  {lines[at]}", f"\t{lines[at]}", lines[at].lstrip(" "), f"- {lines[at]}"))
    return "".join(lines)


def truncate(rng: random.Random, text: str) -> str:
    return text[: rng.randrange(len(text) + 1)]


def splice(rng: random.Random, text: str) -> str:
    other, _ = _line(rng, rng.choice(BASES))
    lines, at = _line(rng, text)
    return "".join(lines[:at] + other[rng.randrange(len(other)) :])


def add(rng: random.Random, text: str) -> str:
    """A key more, of the recipe or of one of its mappings."""
    key, value = rng.choice(KEYS), rng.choice(HOSTILE)
    braces = [m.start() for m in re.finditer(r"\}", text)]
    if braces and rng.random() < 0.5:
        at = rng.choice(braces)
        return f"{text[:at]}, {key}: {value}{text[at:]}"
    return f"{text}{key}: {value}\n"


MUTATIONS: tuple[Callable[[random.Random, str], str], ...] = (
    delete, duplicate, swap, change, change, change, change, rename, rename, misspell, noise, indent, truncate, splice, add, add,
)  # fmt: skip
BASES = [recipe.path.read_text(encoding="utf-8") for recipe in {**ready(), **templates()}.values()]


def mutant(seed: int) -> bytes:
    """The same for the same number."""
    rng = random.Random(f"recipe {seed}")
    text = rng.choice(BASES)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        text = rng.choice(MUTATIONS)(rng, text)
    return text.encode("utf-8", "surrogatepass")


# -- the watch ---------------------------------------------------------------------------------------------------------

RUNS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "pty.spawn"}
NETWORK = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request"}
CHANGES = {
    **dict.fromkeys(
        ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.chown", "shutil.rmtree"), (0,)
    ),
    **dict.fromkeys(("os.link", "os.symlink", "shutil.copyfile"), (1,)),
    **dict.fromkeys(("os.rename", "shutil.move"), (0, 1)),
}
"""Which of an event's arguments is what is changed."""

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
HOME = Path(understudy.__file__).parent
CODE = [str(HOME), *{str(Path(sysconfig.get_path(name))) for name in ("stdlib", "platstdlib", "purelib", "platlib")}]


@dataclass
class Watch:
    """What happens in this process while it is on. A hook cannot be taken away again, so there is one for all tests."""

    folder: str = ""
    seen: list[str] = field(default_factory=list)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.folder:
            return
        if event in RUNS or event in NETWORK:
            self.seen.append(f"{event}{args!r:.200}")
        elif event == "open":
            path, _, flags = args
            if isinstance(flags, int) and flags & WRITES:
                self._written(event, path)
        elif event in CHANGES:
            for at in CHANGES[event]:
                self._written(event, args[at])
        elif event == "exec":
            self._executed(args[0].co_filename)
        elif event == "import" and args[1] is not None and not str(args[1]).startswith(tuple(CODE)):
            self.seen.append(f"import{args[:2]!r:.200}")

    def _written(self, event: str, path: Any) -> None:
        if isinstance(path, int):
            return
        name = str(Path(os.fsdecode(path)).absolute())
        if name != os.devnull and (not name.startswith(self.folder + os.sep) or ".." in name):
            self.seen.append(f"{event}({name!r:.200})")

    def _executed(self, name: str) -> None:
        if name.startswith("<"):  # made from a text: by dataclasses and the like, but not by us
            frame = sys._getframe(2)
            while frame is not None and frame.f_code.co_filename == __file__:
                frame = frame.f_back  # type: ignore[assignment]
            if name.startswith("<frozen") or not frame.f_code.co_filename.startswith(str(HOME)):
                return
        elif name.startswith(tuple(CODE)):
            return
        self.seen.append(f"exec({name!r:.200})")


WATCH = Watch()
sys.addaudithook(WATCH)


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[list[str]]:
    """What is done outside of the folder, or by another program."""
    WATCH.folder, WATCH.seen = str(folder.resolve()), []
    try:
        yield WATCH.seen
    finally:
        WATCH.folder = ""


# -- the tests ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data of the ready recipes."""
    folder = tmp_path_factory.mktemp("workshop")
    for name in DATA:
        write_example(name, folder / "data" / name)
    return folder


@pytest.fixture
def quiet(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same, current, with temporary files in it; threads and warnings as they were afterwards."""
    monkeypatch.chdir(workshop)
    monkeypatch.setattr(tempfile, "tempdir", str(workshop))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a user sees those as lines, not as exceptions
        yield workshop
    torch.set_num_threads(threads)


def code_of(file: Path, *, whole: bool) -> int:
    """The exit code; what is no error of ours is raised."""
    if whole:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return main(["check", str(file)])
    try:
        examine(read(file), progress=False)
    except UnderstudyError as error:
        return error.exit_code if str(error).strip() else 1
    return 0


def fuzz(folder: Path, seeds: range, *, whole_every: int) -> tuple[Counter[int], list[str], list[float]]:
    """Exit codes, failures with the recipe, and seconds."""
    codes: Counter[int] = Counter()
    failures, seconds = [], []
    for seed in seeds:
        file = folder / "mutant.yaml"
        file.write_bytes(mutant(seed))
        torch.set_num_threads(1)
        began = time.perf_counter()
        with watched(folder) as seen:
            try:
                code, told = code_of(file, whole=seed % whole_every == 0), ""
            except Exception:
                code, told = 1, traceback.format_exc(limit=-6)
        seconds.append(time.perf_counter() - began)
        codes[code] += 1
        if code not in (0, 2, 3, 4) or seen or seconds[-1] > BOUND:
            recipe = mutant(seed).decode(errors="replace")
            failures.append(f"== mutant({seed}): exit code {code}, {seconds[-1]:.1f} s, {seen}\n{told}\n{recipe:.3000}")
    return codes, failures, seconds


def judge(codes: Counter[int], failures: list[str], seconds: list[float]) -> None:
    print(f"{sum(codes.values())} recipes: exit codes {dict(codes)}; the slowest took {max(seconds):.1f} s")
    assert not failures, f"{len(failures)} failures, the first of them:\n" + "\n".join(failures[:3])
    assert codes[0] > 0.05 * sum(codes.values())  # else they do not get far
    assert codes[2] > 0.3 * sum(codes.values())


def test_500_mutants_end_with_a_sentence_and_touch_nothing(quiet: Path) -> None:
    judge(*fuzz(quiet, range(500), whole_every=25))


@pytest.mark.long
@pytest.mark.parametrize("start", range(1000, 21_000, 2000))
def test_20_000_mutants_end_with_a_sentence_and_touch_nothing(quiet: Path, start: int) -> None:
    judge(*fuzz(quiet, range(start, start + 2000), whole_every=50))


def test_the_fuzz_sees_a_bug_of_ours(quiet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("understudy.recipe.examine.complaints", broken)
    codes, failures, _ = fuzz(quiet, range(10), whole_every=5)
    assert codes[1] > 0
    assert len(failures) == codes[1]
    assert "KeyError: 'a bug'" in failures[0]


def _run_program() -> None:
    subprocess.run(["true"], check=True)


@pytest.mark.parametrize(
    ("deed", "seen"),
    [
        (_run_program, "subprocess.Popen"),
        (lambda: os.system("true"), "os.system"),
        (lambda: Path("/dev/full").open("w").close(), "open("),
        (lambda: Path("../beside").mkdir(), "os.mkdir"),
        (lambda: shutil.copyfile("mutant.yaml", "../beside/copy"), "shutil.copyfile"),
    ],
    ids=["program", "shell", "file", "folder", "copy"],
)
def test_the_watch_sees_what_it_is_for(quiet: Path, deed: Callable[[], object], seen: str) -> None:
    (quiet / "mutant.yaml").touch()
    with watched(quiet) as events, contextlib.suppress(OSError):
        deed()
    shutil.rmtree(quiet.parent / "beside", ignore_errors=True)
    assert [event for event in events if seen in event]


def test_the_watch_sees_a_foreign_file_run(quiet: Path) -> None:
    (quiet / "foreign.py").write_text("x = 1\n")
    with watched(quiet) as events:
        exec(compile((quiet / "foreign.py").read_text(), str(quiet / "foreign.py"), "exec"), {})
    assert [event for event in events if event.startswith("exec(")]
