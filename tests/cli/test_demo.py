from pathlib import Path

import pytest

from .calls import Answer, call


def test_it_does_the_demo_with_what_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("understudy.demo.run", lambda seeds, out, console: seen.append((seeds, out, console.width)))
    assert call("demo") == call("demo", "--seeds", 2, "--out", "x") == Answer(0, "", "")
    assert seen == [(5, Path("runs/demo"), 80), (2, Path("x"), 80)]


@pytest.mark.parametrize("seeds", ["0", "101", "x", "1.5"])
def test_a_wrong_number_of_seeds_is_refused(seeds: str) -> None:
    told = call("demo", "--seeds", seeds)
    assert (told.code, told.out) == (2, "")
    assert f"'--seeds': '{seeds}' is not a valid whole number" in told.err or "1<=x<=100" in told.err


def test_whoever_stops_it_is_told_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        Path("runs/demo").mkdir(parents=True)
        Path("runs/demo/recipe.yaml").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("understudy.demo.run", stopped)
    told = call("demo")
    assert told.code == 5
    assert told.err == "stopped; runs/demo holds what is done. Go on: understudy run runs/demo --resume\n"
