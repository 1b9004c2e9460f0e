"""The house stays as it is drawn in docs/architecture.md."""

import ast
from pathlib import Path

import pytest

import understudy

ROOT = Path(understudy.__file__).parent
LEAVES = ("data", "zoo", "tasks", "compress", "measure", "export", "report", "store", "accept", "testing")
GROUND = ("errors", "inputs", "modes", "progress", "losses", "projectors", "quiet", "writing")
ENGINE = (
    "parallel", "optimize", "settings", "source", "pool", "feed", "folder", "shards", "checkpoint", "environment", "signals", "callbacks", "play", "state",
    "validation", "engine",
)  # fmt: skip
ORDER = (
    *GROUND, *LEAVES, "address", "batch", "lookup", "taps", "converted", "inference", "teachers", "reading", "term", "naming", "method", "forward", "matching", "methods", *ENGINE, "examples", "views", "forms", "evaluate", "likeness", "pages", "cards", "outcome", "start", "plan", "material", "preflight", "probe", "answers", "rehearsal", "choices", "job", "chains", "registry", "recipe", "picking", "shared", "trained", "ranking", "contest", "search", "demo", "cli", "__main__",
)  # fmt: skip


def modules() -> list[Path]:
    return sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported_rooms(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "understudy":
            parts = node.module.split(".")[1:]
            names |= {parts[0]} if parts else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("understudy.")}
    return names


def violations(path: Path, source: str) -> list[str]:
    here = room(path)
    allowed = set(ORDER[: ORDER.index(here) + 1])
    if here in LEAVES:
        allowed = {*GROUND, here}
    if here in ENGINE:
        allowed -= {"methods", "losses", "zoo", "measure", "report", "testing"}
    return sorted(imported_rooms(source) - allowed)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_from_lower_floors(path: Path) -> None:
    assert violations(path, path.read_text()) == []


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("losses/response.py", "from understudy.term import Term"),
        ("engine.py", "from understudy.methods import kd"),
        ("engine.py", "import understudy.losses"),
        ("data/digits.py", "from understudy.batch import Batch"),
        ("batch.py", "from understudy import method"),
    ],
)
def test_the_check_of_the_floors_sees_a_wrong_import(place: str, source: str) -> None:
    assert violations(ROOT / place, source)


def named(source: str, names: set[str]) -> set[str]:
    """Which of these a source names: in a string, or as something's attribute. A bare name would have to be imported."""
    nodes = list(ast.walk(ast.parse(source)))
    strings = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return names & (strings | {n.attr for n in nodes if isinstance(n, ast.Attribute)})


@pytest.mark.parametrize("module", [*ENGINE, "method", "term", "reading"])
def test_the_engine_names_no_method_and_no_loss(module: str) -> None:
    source = (ROOT / f"{module}.py").read_text()
    names = {*understudy.methods.__all__, *understudy.losses.__all__}
    assert len(names) > 100
    assert named(source, names) == set()
    assert named(f'{source}\nif name == "ps_kd" or losses.PSKD: ...', names) == {"ps_kd", "PSKD"}


def test_every_room_has_its_floor() -> None:
    assert {room(p) for p in modules()} <= set(ORDER)


def test_the_public_names_are_these() -> None:
    assert understudy.__all__ == [
        "Bar", "Batch", "Callback", "Distillation", "Ema", "Method", "ModelInputs", "Move", "Optim", "Part", "Progress", "Result",
        "Settings", "TensorBoard", "Term", "call", "chains", "constant", "cosine", "data", "distill", "linear", "losses", "methods",
        "projectors", "register", "steps_at", "tasks", "train",
    ]  # fmt: skip
    assert [name for name in understudy.__all__ if not hasattr(understudy, name)] == []


def test_the_engine_and_the_method_are_short() -> None:
    assert {name: len((ROOT / name).read_text().splitlines()) < 300 for name in ("engine.py", "method.py")} == {
        "engine.py": True,
        "method.py": True,
    }
