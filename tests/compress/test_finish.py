import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from understudy import compress
from understudy.compress import finish
from understudy.errors import InputError

from .models import outputs, same, small, state


def test_a_model_that_needs_nothing_is_given_back() -> None:
    model, _ = small("cnn")
    assert compress.finished(model) is model


def test_what_has_a_form_that_runs_is_replaced_by_it_wherever_it_stands() -> None:
    class Rehearsing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Any) -> Any:
            return self.layer(x)

        def finished(self) -> nn.Module:
            return self.layer

    one = Rehearsing()
    model = nn.Sequential(one, nn.ModuleList([Rehearsing()])[0], one)
    found = compress.finished(model)
    assert [type(m) for m in found] == [nn.Linear] * 3
    assert found[0] is found[2]
    assert found[0] is not one.layer
    assert [type(m) for m in model] == [Rehearsing] * 3
    assert type(compress.finished(one)) is nn.Linear


def test_a_copy_and_its_original_are_finished_apart() -> None:
    model, x = small("cnn")
    first = compress.magnitude(model, x)
    second = copy.deepcopy(first)
    expected = outputs(first, x)
    done = compress.finished(first)
    assert all(torch.equal(outputs(m, x), expected) for m in (first, second, done, compress.finished(second)))


def test_control_by_torch_alone_a_copy_would_lose_its_weight() -> None:
    model, x = small("cnn")
    first = compress.magnitude(model, x)
    second = copy.deepcopy(first)
    parametrize.remove_parametrizations(first.get_submodule("head"), "weight")
    with pytest.raises(AttributeError, match="weight"):
        second(x)


def test_a_parametrization_of_the_user_stays() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    x = torch.randn(3, 4)
    found = compress.magnitude(model, x, amount=0.5, keep=["0"])
    done = compress.finished(found)
    assert torch.equal(outputs(done, x), outputs(found, x))
    assert [parametrize.is_parametrized(m) for m in done] == [True, False]


def test_several_in_a_row_are_each_done_on_what_was_made_before() -> None:
    model, x = small("cnn")
    before = state(model)
    row: list[finish.Step] = [("channels", {"amount": 0.5}), ("low_rank", {"ratio": 0.5}), "magnitude"]
    found = compress.chain(model, x, row)
    by_hand = compress.magnitude(compress.low_rank(compress.channels(model, x, amount=0.5), x, ratio=0.5), x)
    assert same(state(found), state(by_hand))
    assert same(before, model.state_dict())
    assert compress.sparsity(found) == pytest.approx(0.5, abs=1e-3)


def test_nothing_in_a_row_is_a_copy() -> None:
    model, x = small("cnn")
    found = compress.chain(model, x, [])
    assert found is not model
    assert same(state(found), state(model))


def test_all_that_is_wrong_in_a_row_is_said_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_: Any, **__: Any) -> nn.Module:
        raise AssertionError("worked")

    model, x = small("cnn")
    row: list[finish.Step] = [("low_rank", {"ratoi": 1}), ("magnitud", {}), ("finished", {})]
    monkeypatch.setattr(finish, "copied", work)
    with pytest.raises(InputError) as told:
        compress.chain(model, x, row)
    assert str(told.value).splitlines() == [
        "compress[0]: low_rank has no option 'ratoi'. Did you mean 'ratio'?",
        "compress[1]: there is no compression 'magnitud'. Did you mean 'magnitude'?",
        f"compress[2]: there is no compression 'finished'. Allowed: {', '.join(compress.__all__[:12])}"
        + (f", ... ({len(compress.__all__)} in all)." if len(compress.__all__) > 12 else "."),
    ]


def test_what_a_way_refuses_is_told_with_its_place() -> None:
    model, x = small("cnn")
    with pytest.raises(InputError, match=r"^compress\[1\] magnitude: amount=2 is not allowed"):
        compress.chain(model, x, ["low_rank", ("magnitude", {"amount": 2})])


def test_shapes_are_changed_in_the_finished_form() -> None:
    model, x = small("cnn")
    found = compress.channels(compress.magnitude(model, x), x)
    assert not any("parametrizations" in key for key in found.state_dict())


def test_a_compiled_model_is_taken_as_it_was() -> None:
    model, x = small("cnn")
    found = compress.magnitude(torch.compile(model), x)
    assert type(compress.finished(found)) is type(model)
