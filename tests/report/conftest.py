import copy
from typing import Any

import pytest
from example_run import RUN

from understudy.report.page import page

pytest.register_assert_rewrite("markup")


@pytest.fixture
def run() -> dict[str, Any]:
    return copy.deepcopy(RUN)


@pytest.fixture(scope="session")
def html() -> str:
    return page(RUN)
