"""The error tree, and what its messages are made of."""

from __future__ import annotations

import re

import pytest

from understudy import errors
from understudy.errors import AddressError, InputError, MissingExtra, UnderstudyError, choices, raise_all

CODES = {
    "InputError": 2,
    "AddressError": 2,
    "ShapeError": 2,
    "TapError": 2,
    "NonFiniteError": 2,
    "CorruptError": 3,
    "MachineError": 4,
    "MissingExtra": 4,
    "PeerLost": 4,
    "Interrupted": 5,
}


def kinds() -> dict[str, type[UnderstudyError]]:
    found = {name: getattr(errors, name) for name in errors.__all__}
    return {n: k for n, k in found.items() if isinstance(k, type) and k is not UnderstudyError}


def drawn() -> dict[str, tuple[str, int]]:
    """Parent and exit code of each error, as the module's docstring draws them."""
    branch, code, tree = "UnderstudyError", 0, {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"\s*(?P<outer>│  |   )?\s*[├└]── (?P<name>\w+)\s+(?P<code>\d)?", line)
        if match is None:
            continue
        name = match["name"]
        if match["code"]:
            branch, code = name, int(match["code"])
        tree[name] = (branch if not match["code"] else "UnderstudyError", code)
    return tree


def test_each_kind_of_error_has_its_exit_code() -> None:
    assert {name: kind.exit_code for name, kind in kinds().items()} == CODES


def test_the_docstring_draws_the_tree_that_is_there() -> None:
    assert drawn() == {name: (kind.__bases__[0].__name__, kind.exit_code) for name, kind in kinds().items()}


def test_the_drawing_would_show_a_changed_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors.CorruptError, "exit_code", 7)
    with pytest.raises(AssertionError):
        test_the_docstring_draws_the_tree_that_is_there()


def test_all_lists_every_public_name_and_no_other() -> None:
    own = [
        n for n, v in vars(errors).items() if not n.startswith("_") and getattr(v, "__module__", "") == errors.__name__
    ]
    assert sorted(errors.__all__) == sorted(own)


def test_errors_are_caught_as_what_python_calls_them() -> None:
    with pytest.raises(ValueError, match="wrong"):
        raise AddressError("wrong")
    with pytest.raises(ImportError):
        raise MissingExtra("TensorBoard", "tensorboard")


def test_a_missing_extra_gives_the_command_that_installs_it() -> None:
    assert str(MissingExtra("TensorBoard", "tensorboard")).endswith("Fix: pip install 'understudy[tensorboard]'")


def test_choices_names_the_nearest() -> None:
    assert choices("layr4", ["layer3", "layer4"]) == "Did you mean 'layer4'?"


@pytest.mark.parametrize(
    ("given", "allowed", "meant"),
    [
        ("KD", ["alone", "kd"], "kd"),
        ("adamw", ["SGD", "AdamW"], "AdamW"),
        ("LAYR4", ["layer3", "layer4"], "layer4"),
        ("Bluk", ["block", "bulk", "Bulk"], "Bulk"),  # of two that are equally near but for their case, the nearer one
        ("bluk", ["block", "Bulk", "bulk"], "bulk"),
    ],
)
def test_choices_names_the_nearest_in_whichever_case(given: str, allowed: list[str], meant: str) -> None:
    assert choices(given, allowed) == f"Did you mean {meant!r}?"


def test_choices_does_not_guess_where_nothing_is_near() -> None:
    assert choices("head", ["layer3", "layer4"]) == "Allowed: layer3, layer4."


def test_choices_cuts_a_long_list_and_says_how_long_it_is() -> None:
    names = [f"block{i}" for i in range(40)]
    assert choices("?", names, most=3) == "Allowed: block0, block1, block2, ... (40 in all)."
    assert choices("?", names[:3], most=3) == "Allowed: block0, block1, block2."


def test_choices_takes_names_that_are_no_strings() -> None:
    assert choices(7, [0, 1]) == "Allowed: 0, 1."


def test_choices_of_nothing_says_so() -> None:
    assert choices("x", []) == "Nothing is allowed here."


def test_raise_all_lists_every_problem_in_one_error() -> None:
    with pytest.raises(InputError) as caught:
        raise_all(InputError, ["first.", "second."])
    assert str(caught.value) == "first.\nsecond."


def test_raise_all_is_silent_without_problems() -> None:
    raise_all(InputError, [])
