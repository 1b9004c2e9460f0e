import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from understudy.data import shares as shares_module
from understudy.data.shares import check_classes, groups_of, held_out, shares_of
from understudy.errors import InputError

GROUPS: list[int | None] = [0] * 60 + [1] * 30 + [2] * 10 + [None] * 20


def drawn(groups: list[int | None] = GROUPS, seed: int = 0, **shares: float) -> dict[str, list[int]]:
    return held_out("data", groups, shares, seed, [])


def counts(samples: list[int]) -> dict[int | None, int]:
    return dict(Counter(GROUPS[i] for i in samples))


def test_parts_share_no_sample_and_leave_none_out() -> None:
    parts = drawn(valid=0.2, test=0.3)
    assert sorted(i for part in parts.values() for i in part) == list(range(len(GROUPS)))
    assert {name: len(part) for name, part in parts.items()} == {"train": 70, "valid": 20, "test": 30}
    assert all(part == sorted(part) for part in parts.values())


def fair(samples: list[int], share: float) -> bool:
    found = counts(samples)
    return all(abs(found.get(group, 0) - share * n) <= 1 for group, n in ((0, 60), (1, 30), (2, 10)))


def test_every_class_has_its_share_in_every_part_and_what_has_no_label_is_trained_on() -> None:
    for seed in range(20):
        parts = drawn(seed=seed, valid=0.2, test=0.3)
        assert fair(parts["valid"], 0.2)
        assert fair(parts["test"], 0.3)
        assert counts(parts["train"])[None] == 20
    by_chance = [torch.randperm(100, generator=torch.Generator().manual_seed(s))[:20].tolist() for s in range(20)]
    assert not all(fair(samples, 0.2) for samples in by_chance)  # the control


def test_the_seed_decides_which() -> None:
    assert drawn(valid=0.2, seed=3) == drawn(valid=0.2, seed=3)
    assert drawn(valid=0.2, seed=3) != drawn(valid=0.2, seed=4)


def test_the_test_does_not_depend_on_how_much_is_for_validation() -> None:
    tests = [drawn(test=0.2, **more)["test"] for more in ({}, {"valid": 0.1}, {"valid": 0.5})]
    assert tests[0] == tests[1] == tests[2]


@pytest.mark.parametrize("seed", range(20))
def test_a_rare_class_keeps_a_sample_to_train_on(seed: int) -> None:
    groups: list[int | None] = [0] * 20 + [1, 2, 2]
    kept = {groups[i] for i in drawn(groups, seed, valid=0.4, test=0.4)["train"]}
    assert kept == {0, 1, 2}


def test_a_note_says_how_many_were_drawn() -> None:
    notes: list[str] = []
    held_out("data", GROUPS, {"valid": 0.25}, 7, notes)
    assert notes == ["data: valid is 25 of 100 labelled samples, drawn with seed 7."]


@pytest.mark.parametrize(
    ("groups", "shares", "message"),
    [
        ([0, 0, 1], {"valid": 0.1}, r"valid=0\.1 of 3 labelled samples is none\. Give a larger share"),
        ([None, None], {"valid": 0.5}, "of 0 labelled samples is none"),
        ([0, 1, 2, 3], {"valid": 0.5}, r"valid=0\.5 of 4 .* is 2, and only 0 are left where each class keeps one"),
        ([0] * 10, {"test": 0.5, "valid": 0.49}, r"valid=0\.49 of 10 .* is 5, and only 4 are left"),
    ],
)
def test_a_share_that_cannot_be_drawn_is_refused(groups: Any, shares: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        drawn(groups, **shares)


@pytest.mark.parametrize("share", [0, 1, 1.5, -0.1, True, math.nan])
def test_a_number_that_is_no_share_is_refused_by_its_name(share: Any) -> None:
    with pytest.raises(InputError, match=rf"data: valid={share} is not allowed; give a file of its own, or the share"):
        shares_of("data", Path("a"), {"valid": share, "test": 0.1})


def test_all_that_is_wrong_with_shares_is_told_at_once() -> None:
    with pytest.raises(InputError, match=r"(?s)valid=2 is not.*test=0 is not.*train and unlabelled are both b/c"):
        shares_of("data", Path("b/c"), {"valid": 2, "test": 0, "unlabelled": "b/c"})


def test_shares_that_leave_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=r"valid=0\.5 and test=0\.5 leave nothing to train on"):
        shares_of("data", Path("a"), {"valid": 0.5, "test": 0.5})
    assert shares_of("data", Path("a"), {"valid": 0.5, "test": 0.4, "unlabelled": None}) == {"valid": 0.5, "test": 0.4}


def test_a_file_is_not_taken_twice_however_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    same = tmp_path / "folder" / ".." / "a.csv"
    with pytest.raises(InputError, match=r"train and valid are both .* must not be learnt from"):
        shares_of("data", tmp_path / "a.csv", {"valid": same, "test": None})
    assert shares_of("data", tmp_path / "a.csv", {"valid": tmp_path / "b.csv", "test": None}) == {}


def test_what_is_needed_cannot_be_none() -> None:
    with pytest.raises(InputError, match="valid is None; give a file, or a share"):
        shares_of("data", Path("a"), {"valid": None}, needed=["valid"])
    assert shares_of("data", Path("a"), {"valid": None}) == {}


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        (torch.tensor([3, -100, 0]), [3, None, 0]),
        (torch.tensor([0.5, math.nan, 2.0]), [0, None, 0]),
        (torch.tensor([True, False]), [0, 0]),
        (torch.tensor([[1.0, 0.0], [math.nan, 1.0]]), [0, 0]),
        (torch.tensor([[1, 0], [-100, 1], [-100, -100]]), [0, 0, None]),
    ],
)
def test_groups_are_classes_or_all_that_has_a_label(labels: torch.Tensor, groups: list[int | None]) -> None:
    assert groups_of(labels) == groups


def labels(train: list[int], valid: list[int]) -> dict[str, torch.Tensor]:
    return {"train": torch.tensor(train), "valid": torch.tensor(valid)}


@pytest.mark.parametrize(
    ("train", "valid", "classes", "message"),
    [
        ([0, 1], [0, 2], None, r"train has no sample of class 2\. Add some"),
        ([1, 2], [1, 2], None, "train has no sample of class 0"),
        ([0, 1], [0], ["cat", "dog", "cow"], "train has no sample of class 'cow'"),
        (
            [0, 2],
            [0],
            ["cat", "dog"],
            "train has a label 2; allowed are 0 to 1, as classes has 2 names, and -100 for none",
        ),
        ([0, -1], [0], None, "train has a label -1; allowed are whole numbers from 0"),
        ([0, 0], [0], None, r"data: every label is 0\. There must be two classes or more"),
        ([0, -100], [0], ["cat"], "every label is 'cat'"),
    ],
)
def test_a_class_of_which_nothing_can_be_learnt_is_refused(
    train: list[int], valid: list[int], classes: list[str] | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_classes("data", labels(train, valid), classes, False)


def test_a_class_that_may_be_among_the_unlabelled_is_not_refused() -> None:
    check_classes("data", labels([0, 1], [0, 2]), None, True)
    check_classes("data", labels([0, -100], [0, 1]), None, False)
    check_classes("data", labels([-100, -100], [-100]), None, True)
    check_classes("data", labels([0, 1, -100], [0, 2]), None, False)
    check_classes("data", {"train": torch.tensor([0.5]), "valid": torch.tensor([2.5])}, None, False)


def test_control_without_the_one_that_stays_a_class_can_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(shares_module.__file__).read_text()
    broken = source.replace("by_group[group][1:]", "by_group[group]")
    assert broken != source
    space: dict[str, Any] = {"__name__": "broken"}
    exec(compile(broken, "broken", "exec"), space)
    groups: list[int | None] = [0] * 20 + [1, 2, 2]
    kept = [
        {groups[i] for i in space["held_out"]("x", groups, {"valid": 0.4, "test": 0.4}, s, [])["train"]}
        for s in range(20)
    ]
    assert any(k != {0, 1, 2} for k in kept)
