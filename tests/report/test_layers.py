"""What layers look at, on the page: pictures, words and matrices."""

import base64
import re
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from markup import tree

from understudy.errors import InputError
from understudy.report.layers import layers
from understudy.report.page import page


def heat(maps: dict[str, Any], **more: Any) -> dict[str, Any]:
    found = {name: {"values": values, "likeness": None if name == "teacher" else 0.5} for name, values in maps.items()}
    return {
        "kind": "heat", "term": "t", "student": "a", "teacher": "b", "measured": 3, "figures": {},
        "samples": [{"image": None, "text": None, "label": None, "words": None, "maps": found, **more}],
    }  # fmt: skip


def drawn(uri: str) -> np.ndarray[Any, Any]:
    """The pixels of one of our own pictures ``[H, W, 3]``."""
    data = base64.b64decode(uri.partition(",")[2])
    width, height, _, kind = struct.unpack(">IIBB", data[16:26])
    assert kind == 2
    body = data[data.index(b"IDAT") + 4 :]
    rows = np.frombuffer(zlib.decompressobj().decompress(body), np.uint8).reshape(height, 1 + 3 * width)
    return rows[:, 1:].reshape(height, width, 3)


def pictures(view: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    shown = layers([view])
    assert shown is not None
    return {p["model"]: drawn(p["image"]).astype(int).sum(2) for p in shown["cards"][0]["samples"][0]["pictures"]}


def test_a_map_is_bright_where_there_is_much() -> None:
    found = pictures(heat({"teacher": [[1.0, 0.0], [0.0, 0.0]], "distilled": [[0.0, 0.0], [0.0, 1.0]]}))
    for name, bright in (("teacher", (0, 0)), ("distilled", (-1, -1))):
        corners = {at: found[name][at] for at in ((0, 0), (0, -1), (-1, 0), (-1, -1))}
        assert max(corners, key=lambda at: corners[at]) == bright
        assert max(v for at, v in corners.items() if at != bright) < corners[bright] / 3


def test_the_models_of_a_sample_have_one_scale() -> None:
    found = pictures(heat({"teacher": [[0.5, 0.0], [0.0, 0.0]], "distilled": [[1.0, 0.0], [0.0, 0.0]]}))
    assert found["teacher"][0, 0] < found["distilled"][0, 0]
    alone = pictures(heat({"teacher": [[0.5, 0.0], [0.0, 0.0]]}))
    assert alone["teacher"][0, 0] == found["distilled"][0, 0]  # control: by itself it would be as bright


def test_the_picture_lies_behind_the_map() -> None:
    maps = {"teacher": [[0.0, 0.0], [0.0, 1.0]]}
    dark, light = (pictures(heat(maps, image=[[bright, 0], [0, 255 - bright]]))["teacher"] for bright in (0, 255))
    assert light[0, 0] > dark[0, 0] + 100
    assert light.shape == (96, 96)


def test_a_map_is_described_to_who_cannot_see_it() -> None:
    html = page(
        {
            "layers": [
                heat({"teacher": [[0, 0, 0], [0, 0, 1], [0, 0, 0]], "student alone": [[0, 0, 0], [0, 1, 0], [0, 0, 0]]})
            ]
        }
    )
    alts = [image.attributes["alt"] for image in tree(html).all("img")]
    assert alts == [
        "teacher: most at the middle right",
        "student alone: most at the centre; cosine 0.50 with the teacher",
    ]


def test_every_picture_of_the_page_has_a_description(html: str) -> None:
    section = next(s for s in tree(html).all("section") if s.attributes["id"] == "layers")
    images = list(section.all("img"))
    assert len(images) == 6
    assert all(len(image.attributes["alt"]) > 7 for image in images)


def test_words_are_marked_and_the_strongest_are_named() -> None:
    text = tree(page({"layers": [heat({"teacher": [0.1, 0.0, 1.0]}, words=["not", "very", "good"])]})).one("figure")
    words = [(w.text, w.attributes["class"]) for w in text.all("span") if "word" in w.attributes["class"]]
    assert words == [("not", "word s1"), ("very", "word s0"), ("good", "word s10")]
    assert "teacher: most at good, not, very" in text.text


def test_tokens_without_words_are_numbered() -> None:
    figure = tree(page({"layers": [heat({"teacher": [0.1, 0.0, 1.0]})]})).one("figure")
    assert "most at positions 3, 1, 2" in figure.text


def test_the_figures_stand_by_the_picture(html: str) -> None:
    section = next(s for s in tree(html).all("section") if s.attributes["id"] == "layers")
    assert "student alone 0.610 ± 0.050" in section.text.replace("alone0", "alone 0")
    assert "mean over 1,024 samples" in section.text
    assert "within classes 0.50, between classes -0.05" in section.text
    assert "cat (2), desk (1)" in section.text
    assert "This could not be drawn. TapError: it did not run" in section.text


def test_matrices_have_one_scale_and_say_how_like_they_are() -> None:
    view = {
        "kind": "samples", "term": "t", "student": "a", "teacher": "b", "measured": 3, "figures": {}, "labels": None,
        "matrices": {
            "teacher": {"values": [[1, -1], [-1, 1]], "likeness": None},
            "distilled": {"values": [[1, 0.8], [0.8, 1]], "likeness": 0.4},
        },
    }  # fmt: skip
    shown = layers([view])
    assert shown is not None
    teacher, distilled = shown["cards"][0]["matrices"]
    bright = [drawn(m["image"]).astype(int).sum(2) for m in (teacher, distilled)]
    assert bright[0][0, 1] < bright[1][0, 1] < bright[1][0, 0] == bright[0][0, 0]
    assert distilled["alt"] == "distilled: likenesses of 2 samples; correlation 0.40 with the teacher's"


@pytest.mark.parametrize(
    ("maps", "problem"),
    [
        ({"teacher": [[0.1]], "distilled": [0.1]}, r"layers\[0\]\.samples\[0\]\.maps"),
        ({"teacher": []}, r"layers\[0\]\.samples\[0\]\.maps"),
        ({"teacher": [[[0.1]]]}, r"layers\[0\]\.samples\[0\]\.maps"),
    ],
)
def test_what_is_no_map_is_refused(maps: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        layers([heat(maps)])


def test_more_than_the_page_can_hold_is_left_out_and_said() -> None:
    text = tree(page({"layers": [heat({"teacher": [0.5] * 60})] * 9})).one("main").text
    assert "The first 8 of 9 pairs of layers are shown." in text
    assert "The first 48 of 60 tokens are shown." in text


def test_a_dark_map_draws_no_warning() -> None:
    shown = layers([heat({"teacher": [[0.0, 0.0]]})])
    assert shown is not None
    assert re.match("data:image/png", shown["cards"][0]["samples"][0]["pictures"][0]["image"])
