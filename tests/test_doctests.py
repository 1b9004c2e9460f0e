"""The examples in docstrings run as they stand."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import types

import pytest
import torch
from torch import nn

import understudy
from understudy import losses

MODULES = ["understudy"] + [
    m.name for m in pkgutil.walk_packages(understudy.__path__, "understudy.") if not m.name.endswith("__main__")
]


def run(module: types.ModuleType) -> doctest.TestResults:
    torch.manual_seed(0)
    return doctest.testmod(module, extraglobs={"torch": torch, "nn": nn}, raise_on_error=False)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_every_module_give_what_they_say(name):
    assert run(importlib.import_module(name)).failed == 0


def test_the_examples_are_found():
    assert len(MODULES) > 30
    assert sum(run(importlib.import_module(name)).attempted for name in MODULES) >= 20
    found = {t.name.rsplit(".", 1)[-1] for n in MODULES for t in finder(n) if t.examples}
    assert {*losses.__all__, "Distillation", "parse", "linear"} <= found


def finder(name: str) -> list[doctest.DocTest]:
    return doctest.DocTestFinder().find(importlib.import_module(name))


def test_control_an_example_that_is_wrong_fails(capsys):
    module = types.ModuleType("wrong", doc=">>> torch.ones(1)\ntensor([2.])\n>>> 1 + 1\n2\n")
    assert run(module) == (1, 2)
    assert "Expected:\n    tensor([2.])" in capsys.readouterr().out
