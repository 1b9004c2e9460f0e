"""The card beside an exported student. A run's own is in tests/cli/test_export.py."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from torch import nn

from understudy.cards import card_of, story, write_card
from understudy.errors import InputError
from understudy.examples import Examples
from understudy.outcome import deploy
from understudy.tasks import TASKS

RESULTS = {
    "seeds": [0, 1, 2],
    "rows": [
        {"model": "teacher", "accuracy": 0.98, "parameters": 5000, "latency_ms_p50": 0.4, "size_mb": 0.02},
        {"model": "student alone", "accuracy": 0.9, "accuracy_ci95": 0.02},
        {"model": "kept", "accuracy": 0.95, "accuracy_ci95": 0.01, "parameters": 500, "latency_ms_p50": 0.1, "size_mb": 0.002},
    ],
}  # fmt: skip
TASK = TASKS["classification"]


@pytest.fixture(scope="module")
def data() -> Examples:
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    return Examples.read(torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long()), "test")


def head(folder: Path) -> dict[str, Any]:
    front = (folder / "README.md").read_text().split("---\n", 2)[1]
    return YAML(typ="safe", pure=True).load(io.StringIO(front))


def exported(folder: Path, data: Examples, **more: Any) -> dict[str, float]:
    torch.manual_seed(0)
    return deploy(folder, nn.Linear(4, 2), data, TASK, ["no", "yes"], **more)


def test_a_job_tells_its_students_row_beside_the_teachers() -> None:
    told = story(RESULTS, {"method": "kd", "compressed": "narrower"}, {"processor": "x"})
    assert (told["row"]["accuracy"], told["row"]["seeds"], told["teacher"]["accuracy"]) == (0.95, 3, 0.98)
    assert [row["name"] for row in told["others"]] == ["student alone"]
    assert told["lineage"] == [
        "a teacher, 5,000 parameters",
        "a student, 500 parameters, compressed: narrower",
        "the student learnt from the teacher, by the method kd",
    ]


def test_times_of_the_module_are_not_told_as_those_of_the_file() -> None:
    row = story(RESULTS, {}, {})["row"]
    assert row["eager_latency_ms_p50"] == 0.1
    assert {"latency_ms_p50", "size_mb"} & row.keys() == set()


@pytest.mark.parametrize("results", [{}, {"rows": None}, {"rows": [{}]}])
def test_results_that_tell_nothing_make_a_card_that_tells_less(results: dict[str, Any]) -> None:
    assert "teacher" not in story(results, {}, {})


def test_a_folder_has_a_card_with_what_the_file_scored(data: Examples, tmp_path: Path) -> None:
    figures = exported(
        tmp_path / "small", data, card={**story(RESULTS, {}, {}), **card_of({"data": {"name": "made-up"}})}
    )
    found, text = head(tmp_path / "small"), (tmp_path / "small/README.md").read_text()
    metrics = found["model-index"][0]["results"][0]["metrics"]
    assert found["model-index"][0]["name"] == "small"
    assert [m["value"] for m in metrics] == [pytest.approx(figures["accuracy"], rel=1e-5), 0.95]
    assert found["datasets"] == ["made-up"]
    assert f"| file, bytes | {round(figures['size_mb'] * 1e6):,} |" in text
    assert "the test part, 64 samples" in text
    assert "understudy run recipe.yaml" in text


def test_the_card_of_a_folder_named_deploy_is_named_after_the_run(data: Examples, tmp_path: Path) -> None:
    exported(tmp_path / "runs/mine/deploy-onnx-int8", data, target="onnx-int8")
    found = head(tmp_path / "runs/mine/deploy-onnx-int8")
    assert found["model-index"][0]["name"] == "mine"
    assert "| precision | int8 |" in (tmp_path / "runs/mine/deploy-onnx-int8/README.md").read_text()


def test_an_export_replaces_the_folder_with_its_card(data: Examples, tmp_path: Path) -> None:
    exported(tmp_path / "small", data)
    exported(tmp_path / "small", data, card={"license": "mit"})
    assert head(tmp_path / "small")["license"] == "mit"


def test_a_file_alone_has_no_card(data: Examples, tmp_path: Path) -> None:
    exported(tmp_path / "small.onnx", data)
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]


def test_a_part_that_a_card_does_not_have_is_told_before_anything_is_written(data: Examples, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no part 'licence'"):
        exported(tmp_path / "new/small", data, card={"licence": "mit"})
    assert not (tmp_path / "new").exists()


def test_a_card_can_be_written_anew_with_other_words(data: Examples, tmp_path: Path) -> None:
    figures = exported(tmp_path / "small", data)
    write_card(tmp_path / "small", {"name": "better", "limits": ["Not for medicine."]}, data, TASK, figures)
    assert "# better\n" in (tmp_path / "small/README.md").read_text()
    assert "Not for medicine." in (tmp_path / "small/README.md").read_text()
