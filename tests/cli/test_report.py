import sys
from pathlib import Path

import pytest

from .calls import Answer, call


def test_the_page_is_byte_equal_to_the_runs_own(run: Path) -> None:
    assert call("report", run, "--out", "page.html") == Answer(0, "page.html\n", "")
    assert Path("page.html").read_bytes() == (run / "report.html").read_bytes()


def test_control_another_runs_page_is_another(run: Path) -> None:
    Path("moved").mkdir()
    told = (run / "page.json").read_text()
    Path("moved/page.json").write_text(told.replace("student alone", "student by itself"))
    assert call("report", "moved") == Answer(0, "moved/report.html\n", "")
    assert Path("moved/report.html").read_bytes() != (run / "report.html").read_bytes()


@pytest.mark.parametrize("name", ["nope", ".", "note.txt"])
def test_what_is_no_run_is_told(name: str) -> None:
    Path("note.txt").write_text("buy milk")
    told = call("report", name)
    assert (told.code, told.out) == (2, "")
    assert told.err.startswith(f"{name}: holds no finished job: there is no page.json in it.")


@pytest.mark.parametrize("held", [b"", b"[1, 2]", b"{", b"\xff\xfe"])
def test_a_damaged_page_is_told_as_such(held: bytes) -> None:
    Path("page.json").write_bytes(held)
    told = call("report", ".")
    assert (told.code, told.out) == (3, "")
    assert told.err.startswith("page.json: is damaged: ")
    assert not Path("report.html").exists()


@pytest.mark.parametrize(
    ("out", "code"), [("note.txt", 2), (".", 2), ("mine.html", 2), ("note.txt/x.html", 4), ("/proc/nothing/x.html", 4)]
)
def test_a_place_that_cannot_be_is_refused(out: str, code: int, run: Path) -> None:
    Path("note.txt").write_text("years of work")
    Path("mine.html").mkdir()
    told = call("report", run, "--out", out)
    assert (told.code, told.out) == (code, "")
    assert out.removesuffix("/x.html") in told.err
    assert Path("note.txt").read_text() == "years of work"


def test_a_package_that_is_missing_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    told = call("report", run, "--out", "page.html")
    assert (told.code, told.out) == (4, "")
    assert "pip install 'understudy[report]'" in told.err
