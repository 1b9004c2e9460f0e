from pathlib import Path
from typing import Any

import pytest
import torch

from understudy.data import Augment, Pictures, Streamed
from understudy.data.sets import images
from understudy.errors import InputError
from understudy.pool import with_unlabelled

Image = pytest.importorskip("PIL.Image")


def drawn(folder: Path, **counts: int) -> Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (4, 4), (i, i, i)).save(folder / name / f"{i:02}.png")
    return folder


def names(data: Any) -> list[str]:
    return [file.as_posix() for file in data.files]


def test_three_folders_have_the_classes_of_the_first(tmp_path: Path) -> None:
    parts = images(
        train=drawn(tmp_path / "a", cat=2, dog=3),
        size=(2, 3),
        valid=drawn(tmp_path / "b", dog=1),
        test=drawn(tmp_path / "c", cat=1, dog=1),
        channels=1,
    )
    assert (parts.train.labels, parts.valid.labels, parts.test.labels) == ((0, 0, 1, 1, 1), (1,), (0, 1))
    assert (parts.classes, parts.train[0][0].shape, parts.notes) == (("cat", "dog"), (1, 2, 3), ())


def test_shares_are_held_out_of_every_class_alike(tmp_path: Path) -> None:
    root = drawn(tmp_path / "a", cat=20, dog=10, unlabelled=4)
    parts = images(train=root, size=4, valid=0.2, test=0.2)
    assert torch.tensor(parts.valid.labels).bincount().tolist() == [4, 2]
    assert torch.tensor(parts.test.labels).bincount().tolist() == [4, 2]
    assert parts.train.labels.count(-100) == 4
    together = names(parts.train) + names(parts.valid) + names(parts.test)
    assert sorted(together) == sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))
    assert names(images(train=root, size=4, valid=0.2, test=0.2).valid) == names(parts.valid)
    assert names(images(train=root, size=4, valid=0.2, test=0.2, seed=1).valid) != names(parts.valid)


def test_a_held_out_picture_is_the_one_of_its_file(tmp_path: Path) -> None:
    parts = images(train=drawn(tmp_path / "a", cat=10, dog=10), size=4)
    for i, file in enumerate(parts.valid.files):
        picture, label = parts.valid[i]
        assert picture[0, 0, 0] == pytest.approx(int(file.stem) / 255)
        assert parts.classes[label] == file.parts[0]


def test_a_folder_of_unlabelled_pictures_goes_beside_the_others(tmp_path: Path) -> None:
    more = drawn(tmp_path / "more", whatever=2)
    parts = images(train=drawn(tmp_path / "a", cat=5, dog=5), size=4, unlabelled=more)
    pooled = with_unlabelled(parts.train, parts.unlabelled)
    (batch,) = pooled.in_order()
    assert batch["label"].tolist() == [0] * 4 + [1] * 4 + [-100] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"valid": 0.01}, "valid=0.01 of 4 labelled samples is none"),
        ({"valid": 0.9}, "only 2 are left where each class keeps one"),
        ({"valid": 3}, "valid=3 is not allowed; give a file of its own, or the share"),
        ({"size": 0}, "size=0 is not allowed"),
        ({"valid": None}, "valid is None"),
    ],
)
def test_what_cannot_work_is_refused_with_its_option(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    root = drawn(tmp_path / "a", cat=2, dog=2)
    with pytest.raises(InputError, match=message):
        images(train=root, **{"size": 4, **options})


def test_folders_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    train = drawn(tmp_path / "train", cat=3, dog=3)
    with pytest.raises(InputError, match=r"'cow' is none of the classes\. Allowed: cat, dog"):
        images(train=train, size=4, valid=drawn(tmp_path / "valid", cow=1))
    with pytest.raises(InputError, match=r"there is no such folder\. Did you mean 'valid'"):
        images(train=train, size=4, valid=tmp_path / "vaild")
    with pytest.raises(InputError, match="train and valid are both"):
        images(train=train, size=4, valid=train)
    flat = drawn(tmp_path, flat=3) / "flat"
    with pytest.raises(InputError, match=r"has no sub-folder for a class\. Sort the pictures"):
        images(train=flat, size=4)


def test_pictures_are_augmented_in_training_and_elsewhere_only_normalised(tmp_path: Path) -> None:
    root = drawn(tmp_path / "a", cat=10, dog=10)
    plain = images(train=root, size=4)
    parts = images(train=root, size=4, augment=Augment(crop=1, flip=True), mean=(0.1, 0.2, 0.3), std=0.5)
    assert [part.random for part in (parts.train, parts.valid)] == [True, False]
    made, labels = parts.valid.batch(torch.arange(4), 0, 0)
    wanted = torch.stack([plain.valid[i][0] for i in range(4)])
    torch.testing.assert_close(made, (wanted - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / 0.5)
    assert labels.tolist() == list(plain.valid.labels)
    assert parts.classes == plain.classes


def test_pictures_that_are_only_augmented_have_the_numbers_of_those_that_are_not(tmp_path: Path) -> None:
    root = drawn(tmp_path / "a", cat=10, dog=10)
    plain, parts = images(train=root, size=4), images(train=root, size=4, augment=Augment(flip=True))
    assert all(torch.equal(parts.valid[i][0], plain.valid[i][0]) for i in range(4))
    assert torch.equal(parts.train[3][0], plain.train[3][0])  # of one shade, which a flip leaves alone


def test_pictures_that_do_not_fit_are_decoded_each_time_and_look_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"train": drawn(tmp_path / "a", cat=10, dog=10), "size": 4, "augment": Augment(crop=2)}
    kept = images(**options).train
    monkeypatch.setattr("understudy.data.augment.IN_MEMORY", 0)
    streamed = images(**options).train
    assert (type(kept), type(streamed)) == (Pictures, Streamed)
    for draw in range(3):
        for one, other in zip(*(part.batch(torch.arange(16), draw, 1) for part in (kept, streamed)), strict=True):
            assert torch.equal(one, other)
