import builtins
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from understudy.data import ImageFolder, image_folder
from understudy.errors import CorruptError, InputError, MissingExtra
from understudy.source import Source, source_of

Image = pytest.importorskip("PIL.Image")
torch.set_num_threads(1)

WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)


def draw(path: Path, colour: tuple[int, ...] = RED, size: tuple[int, int] = (4, 4), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour if mode != "L" else colour[0]).save(path)
    return path


def pets(root: Path) -> Path:
    for name in ("dog/b.png", "dog/a/c.png", "cat/10.png", "cat/9.JPG", "unlabelled/x.png", "loose.bmp"):
        draw(root / name)
    (root / "cat/notes.txt").write_text("no picture")
    draw(root / "cat/.hidden.png")
    draw(root / ".cache/d.png")
    return root


def test_a_folder_gives_its_names_as_labels_in_the_order_of_sorted_paths(tmp_path: Path) -> None:
    data = image_folder(pets(tmp_path), size=2)
    assert [(f.as_posix(), label) for f, label in zip(data.files, data.labels, strict=True)] == [
        ("cat/10.png", 0),
        ("cat/9.JPG", 0),
        ("dog/a/c.png", 1),
        ("dog/b.png", 1),
        ("loose.bmp", -100),
        ("unlabelled/x.png", -100),
    ]
    assert data.classes == ("cat", "dog")


def test_ids_do_not_depend_on_the_order_in_which_the_disk_lists_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = image_folder(pets(tmp_path), size=2).files
    rglob, glob, iterdir = Path.rglob, Path.glob, Path.iterdir
    shuffled = lambda found: random.Random(3).sample(found := list(found), len(found))  # noqa: E731
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: shuffled(rglob(self, pattern)))
    monkeypatch.setattr(Path, "glob", lambda self, pattern: shuffled(glob(self, pattern)))
    monkeypatch.setattr(Path, "iterdir", lambda self: shuffled(iterdir(self)))
    assert list(tmp_path.rglob("*.*")) != sorted(tmp_path.rglob("*.*"))  # the control: the disk's order has changed
    assert image_folder(tmp_path, size=2).files == before


def test_it_is_a_source_whose_batches_a_model_takes(tmp_path: Path) -> None:
    source = source_of(image_folder(pets(tmp_path), size=(2, 3)))
    assert isinstance(source, Source)
    (batch,) = source.in_order()
    assert (batch["input"].shape, batch["input"].dtype) == ((6, 3, 2, 3), torch.float32)
    assert batch["label"].tolist() == [0, 0, 1, 1, -100, -100]
    assert source.is_fixed()


def test_pictures_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    data = image_folder(pets(tmp_path), size=4)
    draw(tmp_path / "dog/b.png", WHITE)
    assert data[3][0].eq(1).all()
    assert not data[2][0].eq(1).all()


def test_pixels_are_those_of_the_file_from_0_to_1(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
    (tmp_path / "a").mkdir()
    Image.fromarray(array).save(tmp_path / "a/a.png")
    image, _ = image_folder(tmp_path, size=(2, 4))[0]
    assert torch.equal(image, torch.tensor(array).permute(2, 0, 1) / 255)


@pytest.mark.parametrize(("channels", "expected"), [(1, [76 / 255]), (3, [1, 0, 0]), (4, [1, 0, 0, 1])])
def test_channels_are_grey_colour_or_colour_with_opacity(tmp_path: Path, channels: int, expected: list[float]) -> None:
    draw(tmp_path / "a/a.png")
    image, _ = image_folder(tmp_path, size=4, channels=channels)[0]
    assert image[:, 0, 0].tolist() == pytest.approx(expected)
    assert image.is_contiguous()


def test_a_wide_picture_is_cut_from_its_middle_and_not_squeezed(tmp_path: Path) -> None:
    wide = Image.new("RGB", (40, 10), BLACK)
    wide.paste(Image.new("RGB", (10, 10), WHITE), (15, 0))
    (tmp_path / "a").mkdir()
    wide.save(tmp_path / "a/a.png")
    image, _ = image_folder(tmp_path, size=10)[0]
    assert image.eq(1).all()


def test_what_is_transparent_becomes_white_whatever_colour_lies_below(tmp_path: Path) -> None:
    draw(tmp_path / "a/a.png", (255, 0, 0, 0), mode="RGBA")
    image, _ = image_folder(tmp_path, size=4)[0]
    assert image.eq(1).all()


def test_a_picture_of_16_bits_keeps_its_shades(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(np.array([[0, 16384, 32768, 65535]], dtype=np.uint16)).save(tmp_path / "a/a.png")
    image, _ = image_folder(tmp_path, size=(1, 4), channels=1)[0]
    assert image[0, 0].tolist() == pytest.approx([0, 64 / 255, 128 / 255, 1])


def test_a_photograph_is_turned_upright_as_its_camera_says(tmp_path: Path) -> None:
    left = Image.new("RGB", (4, 4), BLACK)
    left.paste(Image.new("RGB", (2, 4), WHITE), (0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: what is stored as left is above
    (tmp_path / "a").mkdir()
    left.save(tmp_path / "a/a.png", exif=exif)
    image, _ = image_folder(tmp_path, size=4)[0]
    assert image[0].tolist() == [[1.0] * 4] * 2 + [[0.0] * 4] * 2


@pytest.mark.parametrize("damage", ["cut", "no picture", "empty"])
def test_a_broken_picture_is_named(tmp_path: Path, damage: str) -> None:
    data = image_folder(pets(tmp_path), size=4)
    path = tmp_path / "dog/b.png"
    path.write_bytes({"cut": path.read_bytes()[:-20], "no picture": b"hello", "empty": b""}[damage])
    with pytest.raises(CorruptError, match=r"dog/b\.png: cannot be read as a picture: .*take it out"):
        data[3]
    assert data[2][1] == 1  # the others can be read
    source = source_of(data)
    assert isinstance(source, Source)
    with pytest.raises(CorruptError, match=r"data: sample 3: .*dog/b\.png"):
        source.fetch([(0, 3)], 0)


def test_another_folder_is_read_with_the_classes_of_the_first(tmp_path: Path) -> None:
    train = image_folder(pets(tmp_path / "train"), size=4)
    draw(tmp_path / "test/dog/1.png")
    assert image_folder(tmp_path / "test", size=4, classes=train.classes).labels == (1,)
    assert image_folder(tmp_path / "test", size=4).labels == (0,)  # without them it would be another class


def test_unlabelled_pictures_alone_have_no_class(tmp_path: Path) -> None:
    draw(tmp_path / "1.png")
    data = image_folder(tmp_path, size=4)
    assert (data.labels, data.classes) == ((-100,), ())


def folder_of(*files: str) -> Any:
    def make(root: Path) -> Path:
        root.mkdir(exist_ok=True)
        for name in files:
            if name.endswith("/"):
                (root / name).mkdir()
            else:
                draw(root / name)
        return root

    return make


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda root: (root.mkdir(), root.with_name("pet"))[1], {}, r"there is no such folder\. Did you mean 'pets'"),
        (folder_of(), {}, r"holds no picture; read are \.bmp"),
        (folder_of("cat/1.png", "dog/"), {}, r"pets/dog: holds no picture\. Fill it or remove it"),
        (
            folder_of("cat/1.png", "dogs/1.png", "bird/1.png"),
            {"classes": ["cat", "dog"]},
            r"(?s)'bird' is none of the classes\. Allowed: cat, dog.*'dogs' is none of the classes\. Did you mean 'dog'",
        ),
        (folder_of("cat/1.png"), {"classes": ["cat", "cat"]}, "has a name twice"),
        (folder_of("cat/1.png"), {"size": 0}, "size=0 is not allowed"),
        (folder_of("cat/1.png"), {"size": (4, 4, 3)}, "is not allowed; give the side"),
        (folder_of("cat/1.png"), {"size": True}, "size=True is not allowed"),
        (folder_of("cat/1.png"), {"size": None}, "needs a size"),
        (folder_of("cat/1.png"), {"channels": 2}, "channels=2 is not allowed"),
    ],
)
def test_what_cannot_be_a_folder_of_pictures_is_refused(
    tmp_path: Path, make: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        image_folder(make(tmp_path / "pets"), **{"size": 4, **options})


def test_a_class_folder_may_be_a_link(tmp_path: Path) -> None:
    draw(tmp_path / "elsewhere/deep/1.png")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/cat").symlink_to(tmp_path / "elsewhere")
    assert image_folder(tmp_path / "root", size=4).labels == (0,)


def test_without_pillow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "a/1.png")
    assert isinstance(image_folder(tmp_path, size=4), ImageFolder)
    imported = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.split(".")[0] == "PIL":
            raise ImportError(name)
        return imported(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"understudy\[images\]"):
        image_folder(tmp_path, size=4)
