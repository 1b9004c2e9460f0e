import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from understudy.errors import InputError
from understudy.report.picture import LARGEST, data_uri, is_small


def decoded(image: Any) -> np.ndarray[Any, Any]:
    """The pixels as another program reads them, which checks every sum in the file."""
    kind, _, data = data_uri(image).partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        picture.load()
        return np.asarray(picture)


def test_a_grey_picture_in_zero_to_one_keeps_its_values() -> None:
    assert decoded([[0.0, 0.2, 1.0], [1.0, 0.4, 0.0]]).tolist() == [[0, 51, 255], [255, 102, 0]]


def test_one_channel_first_is_a_grey_picture() -> None:
    assert decoded([[[0.0, 1.0]]]).tolist() == [[0, 255]]


@pytest.mark.parametrize("channels", [3, 4])
def test_channels_may_stand_first_or_last(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels))
    assert (decoded(pixels) == pixels).all()
    assert (decoded(np.moveaxis(pixels, -1, 0)) == pixels).all()


def test_of_another_number_of_channels_the_first_is_shown() -> None:
    stack = np.random.default_rng(0).integers(0, 256, (12, 5, 7))
    assert (decoded(stack) == stack[0]).all()


def test_another_range_is_stretched() -> None:
    assert decoded([[-2.0, 0.0, 2.0]]).tolist() == [[0, 128, 255]]
    assert decoded([[0.0, 300.0]]).tolist() == [[0, 255]]


def test_an_even_picture_and_one_with_nan_are_no_difficulty() -> None:
    assert decoded([[7.5, 7.5]]).tolist() == [[0, 0]]
    assert decoded([[float("nan"), 0.0, 1.0, float("inf")]]).tolist() == [[0, 0, 255, 255]]


def test_a_large_picture_is_thinned_out() -> None:
    large = np.zeros((700, 20))
    large[::3] = 1.0
    assert decoded(large).shape == (234, 7)
    assert decoded(large).min() == 255
    assert max(decoded(np.zeros((LARGEST, 10))).shape) == LARGEST


def test_only_few_pixels_are_shown_as_squares() -> None:
    assert is_small(np.zeros((1, 28, 28)))
    assert not is_small(np.zeros((3, 224, 224)))


@pytest.mark.parametrize("wrong", [[1.0, 2.0], [[1.0], [1.0, 2.0]], [], [["a"]], np.zeros((1, 1, 1, 1)), 3.0])
def test_what_is_no_picture_is_refused_by_its_name(wrong: Any) -> None:
    with pytest.raises(InputError, match="samples\\[3\\]"):
        data_uri(wrong, "samples[3]")
