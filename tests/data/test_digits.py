import hashlib
import sys

import pytest
import torch

from understudy.data import Parts
from understudy.data.digits import digits
from understudy.errors import InputError, MissingExtra


def test_images_and_order_are_those_that_results_were_measured_on() -> None:
    data = digits()
    assert isinstance(data, Parts)
    assert [tuple(images.shape) for images, _ in (data.train, data.valid, data.test)] == [
        (1000, 1, 8, 8),
        (397, 1, 8, 8),
        (400, 1, 8, 8),
    ]
    bytes_of = (tensor.numpy().tobytes() for part in (data.train, data.valid, data.test) for tensor in part)
    assert hashlib.sha256(b"".join(bytes_of)).hexdigest()[:16] == "5508021a812b1d64"
    assert (data.classes, data.notes, data.unlabelled) == (None, (), None)
    assert (data.train[0].min(), data.train[0].max()) == (0, 1)


def test_labels_after_the_first_few_are_taken_away_and_nothing_else_changes() -> None:
    few, whole = digits(labelled=200), digits()
    assert few.train[1][:200].equal(whole.train[1][:200])
    assert few.train[1][200:].eq(-100).all()
    assert whole.train[1].ge(0).all()
    assert few.train[0].equal(whole.train[0])
    assert few.valid[1].equal(whole.valid[1])
    assert few.test[1].equal(whole.test[1])


def test_no_label_at_all_and_every_label_are_allowed() -> None:
    assert digits(labelled=0).train[1].eq(-100).all()
    assert digits(labelled=1000).train[1].equal(digits().train[1])


def test_another_seed_deals_them_out_in_another_way() -> None:
    assert not torch.equal(digits(seed=1).train[1], digits().train[1])
    assert digits(seed=1).train[1].equal(digits(seed=1).train[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 1400}, "train=1400 and valid=397 leave nothing to test on. There are 1,797 images"),
        ({"train": 0, "valid": -1}, r"(?s)train=0 is not allowed; give 1 or more\..*valid=-1 is not allowed"),
        ({"labelled": 1001}, "labelled=1001 is not allowed; it is a part of train: 0 to 1000"),
        ({"labelled": -1}, "labelled=-1 is not allowed"),
    ],
)
def test_numbers_that_leave_a_part_empty_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        digits(**options)


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtra, match=r"understudy\[demo\]"):
        digits()
