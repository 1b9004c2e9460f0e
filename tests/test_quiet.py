"""What is said within is not heard, and all of it is again afterwards."""

from __future__ import annotations

import logging
import sys
import warnings

import pytest

from understudy.quiet import quiet


def speak() -> None:
    print("printed")
    print("complained", file=sys.stderr)
    logging.getLogger("somebody").error("logged")
    warnings.warn("warned", stacklevel=1)


def test_nothing_is_heard_of_it(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with quiet():
        speak()
    assert capsys.readouterr() == ("", "")
    assert caplog.messages == []


def test_all_is_heard_after_it_however_it_ended(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyError), quiet():
        raise KeyError
    with pytest.warns(UserWarning, match="warned"):
        speak()
    assert capsys.readouterr() == ("printed\n", "complained\n")
    assert caplog.messages == ["logged"]
