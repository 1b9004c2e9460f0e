import dataclasses
import inspect

from understudy.job import distill
from understudy.plan import Plan


def test_a_plan_is_what_distill_was_asked_name_by_name() -> None:
    assert [f.name for f in dataclasses.fields(Plan)] == list(inspect.signature(distill).parameters)
