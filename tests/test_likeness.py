"""How like the layers of teacher and students are, in a job and by hand."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import understudy as us
from understudy import evaluate, likeness, preflight
from understudy.evaluate import Evidence, Trial
from understudy.examples import Examples
from understudy.likeness import likenesses
from understudy.method import Method
from understudy.outcome import Distilled
from understudy.pages import contents, page_of, write_page
from understudy.reading import Reader
from understudy.state import digest
from understudy.tasks import TASKS
from understudy.views import View, views


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.layer(x).amax((2, 3))))


def images(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """A bright stripe, upright or not; class 1 first."""
    pictures = 0.3 * torch.randn(samples, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    labels = (torch.arange(samples) < samples // 2).long()
    pictures[labels == 0, :, :, 2] += 1
    pictures[labels == 1, :, 2, :] += 1
    return pictures, labels


def job(method: Any = "attention_transfer", **more: Any) -> Distilled:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "to_onnx", lambda *args: None)
        patch.setattr(evaluate, "peak_memory", lambda *args: {"peak_memory_mb": 1.0})
        patch.setattr(preflight, "check_teacher", lambda material: None)
        return us.distill(
            lambda: Net(3), Net(8), images(64, 0), images(40, 1), test=images(40, 2), method=method, teacher_epochs=12,
            **{"epochs": 2, "seeds": 2, "fine_tune": False, "progress": False, "device": "cpu", **more},
        )  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Distilled:
    return job(folder=tmp_path_factory.mktemp("job") / "run", classes=["upright", "flat"])


@pytest.fixture(scope="module")
def related() -> Distilled:
    return job("similarity_preserving")


def read(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval().layer(x)


def cosine(a: Tensor, b: Tensor) -> float:
    a, b = (x.square().mean(0).flatten() for x in (a, b))
    return float(a @ b / (a.norm() * b.norm()))


def test_the_figure_is_the_mean_cosine_on_the_test_data_over_the_seeds(done: Distilled) -> None:
    (view,) = done.page["layers"]
    x, _ = images(40, 2)
    taught = read(done.teacher, x)
    for stage, name in (("alone", "student alone"), ("distilled", "distilled")):
        means = [
            sum(cosine(a, b) for a, b in zip(read(trial.students[stage], x), taught, strict=True)) / 40
            for trial in done.evidence.trials
        ]
        assert view["figures"][name]["mean"] == pytest.approx(sum(means) / 2, abs=1e-5)
        half = 12.706 * abs(means[0] - means[1]) / 2  # Student's t with one degree of freedom
        assert view["figures"][name]["half"] == pytest.approx(half, rel=1e-3)
    assert view["measured"] == 40
    other = read(done.teacher, images(40, 1)[0])  # control: other data would give another figure
    wrong = (
        sum(cosine(a, b) for a, b in zip(read(done.evidence.trials[0].students["alone"], x), other, strict=True)) / 40
    )
    assert wrong != pytest.approx(view["figures"]["student alone"]["mean"], abs=1e-3)


def test_the_samples_are_the_first_of_each_class_and_then_the_second(done: Distilled) -> None:
    (view,) = done.page["layers"]
    assert [sample["sample"] for sample in view["samples"]] == [20, 0, 21, 1, 22, 2]
    assert [sample["label"] for sample in view["samples"]] == ["upright", "flat"] * 3
    assert all(sample["image"] is not None for sample in view["samples"])


def test_each_map_is_the_models_own_of_that_sample(done: Distilled) -> None:
    (view,) = done.page["layers"]
    x, _ = images(40, 2)
    for sample in view["samples"]:
        shown = x[sample["sample"]][None]
        for name, model in (("teacher", done.teacher), ("distilled", done.evidence.model("distilled"))):
            expected = read(model, shown)[0].square().mean(0)
            found = torch.tensor(sample["maps"][name]["values"])
            assert torch.allclose(found, expected / expected.norm(), atol=1e-4)
        likeness = cosine(read(done.evidence.model("distilled"), shown)[0], read(done.teacher, shown)[0])
        assert sample["maps"]["distilled"]["likeness"] == pytest.approx(likeness, abs=1e-5)
        assert sample["maps"]["teacher"]["likeness"] is None


def test_the_matrices_are_of_the_same_samples_in_the_order_of_their_classes(related: Distilled) -> None:
    (view,) = related.page["layers"]
    assert view["kind"] == "samples"
    assert view["labels"] == ["0"] * 15 + ["1"] * 15
    assert view["of"] == [*range(20, 35), *range(15)]
    x = images(40, 2)[0][view["of"]]
    flat = [read(m, x).flatten(1) for m in (related.teacher, related.evidence.model("distilled"))]
    cosines = [nn.functional.cosine_similarity(f[:, None], f[None], dim=2) for f in flat]
    for name, expected in zip(("teacher", "distilled"), cosines, strict=True):
        assert torch.allclose(torch.tensor(view["matrices"][name]["values"]), expected, atol=1e-4)
    above = torch.triu_indices(30, 30, 1).unbind()
    expected = float(torch.corrcoef(torch.stack([c[above] for c in cosines]))[0, 1])
    assert view["matrices"]["distilled"]["likeness"] == pytest.approx(expected, abs=1e-4)
    same = [float(cosines[0][i, j]) for i in range(30) for j in range(30) if i != j and (i < 15) == (j < 15)]
    assert view["matrices"]["teacher"]["within"] == pytest.approx(sum(same) / len(same), abs=1e-4)


def test_a_job_of_outputs_alone_has_no_such_section() -> None:
    result = job("kd", seeds=1, epochs=1)
    assert result.page["layers"] == []


def test_it_is_in_the_folder_and_the_page_made_again_is_the_same(done: Distilled, tmp_path: Any) -> None:
    assert done.path is not None
    again = write_page(tmp_path / "again.html", page_of(done.path)).read_text()
    assert again == done.report(tmp_path / "first.html").read_text()
    assert "What the layers see" in again


def test_a_resumed_job_shows_the_same(done: Distilled) -> None:
    assert job(folder=done.path, resume=True, classes=["upright", "flat"]).page["layers"] == done.page["layers"]


def test_to_look_changes_no_model_and_no_result(done: Distilled, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [done.teacher, *(m for trial in done.evidence.trials for m in trial.students.values())]
    before, state = [digest(m) for m in models], torch.get_rng_state()
    assert likenesses(done.evidence)
    assert [digest(m) for m in models] == before
    assert torch.equal(torch.get_rng_state(), state)
    blind = job_without_looking(monkeypatch)
    for key in ("accuracy", "loss_nats", "agreement"):
        assert [row.get(key) for row in blind.rows] == [row.get(key) for row in done.rows]
    assert [digest(t.students["distilled"]) for t in blind.evidence.trials] == [
        digest(t.students["distilled"]) for t in done.evidence.trials
    ]


def job_without_looking(monkeypatch: pytest.MonkeyPatch) -> Distilled:
    monkeypatch.setattr("understudy.job.views", lambda *args: ())
    result = job()
    assert result.page["layers"] == []
    return result


def test_a_view_that_cannot_be_read_costs_its_picture_and_not_the_run(
    done: Distilled, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    def broken(*args: Any) -> Any:
        raise RuntimeError("out of memory\nmore")

    monkeypatch.setattr(Reader, "read", broken)
    (view,) = likenesses(done.evidence)
    assert view["failed"] == "RuntimeError: out of memory"
    shown = {**page_of(done.path), "layers": [view]}  # type: ignore[arg-type]
    assert (
        "This could not be drawn. RuntimeError: out of memory" in write_page(tmp_path / "page.html", shown).read_text()
    )


def test_no_more_samples_are_measured_than_the_limit_and_they_are_spread(
    done: Distilled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likeness, "LIMIT", 15)
    (view,) = likenesses(done.evidence)
    assert view["measured"] == 14  # every third of 40
    assert view["figures"] != done.page["layers"][0]["figures"]


def test_no_more_views_are_shown_than_there_is_room_for_and_the_last_is_among_them(done: Distilled) -> None:
    (view,) = done.evidence.views
    many = tuple(dataclasses.replace(view, term=str(i)) for i in range(9))
    shown = likenesses(dataclasses.replace(done.evidence, views=many))
    assert [v["term"] for v in shown] == ["1", "3", "5", "8"]


# -- words -------------------------------------------------------------------------------------------------------------


class Tokens(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Embedding(10, 4)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.layer(input_ids).mean(1)


def of_words(**fields: Any) -> list[dict[str, Any]]:
    ids = torch.arange(8).reshape(2, 4)
    rows = [{"input_ids": ids[i], "label": i, **{k: v[i] for k, v in fields.items()}} for i in range(2)]

    def collate(some: list[dict[str, Any]]) -> dict[str, Any]:
        kept = {k: [row[k] for row in some] for k in some[0]}
        return {
            k: torch.stack(list(map(torch.as_tensor, v))) if k in ("input_ids", "label", "attention_mask") else v
            for k, v in kept.items()
        }

    loader = torch.utils.data.DataLoader(rows, batch_size=2, collate_fn=collate)  # type: ignore[arg-type]
    data = Examples.read(loader, "test")
    teacher, student = Tokens(0), Tokens(1)
    method: Method = us.Distillation(
        us.Term(us.losses.attention_map, "student.layer", "teacher.layer"), student=student, teacher=teacher
    )
    (batch,) = data.source.in_order()
    (view,) = views(method, teacher, batch)
    trial = Trial(0, {"distilled": student})
    (told,) = likenesses(Evidence(TASKS["classification"], data, teacher, [trial], {}, us.call, [view]))
    samples: list[dict[str, Any]] = told["samples"]
    return samples


def test_tokens_are_called_by_their_words_where_the_batch_has_one_for_each() -> None:
    assert [s["words"] for s in of_words(words=[["a", "b", "c", "d"], ["e", "f", "g", "h"]])] == [
        list("abcd"),
        list("efgh"),
    ]
    assert [s["words"] for s in of_words(text=["a b c d", "e f g h"])] == [list("abcd"), list("efgh")]


def test_words_of_which_there_are_too_few_are_not_taken() -> None:
    assert [s["words"] for s in of_words(text=["a b c", "e f"])] == [["0", "1", "2", "3"], ["4", "5", "6", "7"]]


def test_padding_is_not_shown() -> None:
    first, second = of_words(attention_mask=[[1, 1, 1, 0], [1, 1, 0, 0]], text=["a b c", "e f"])
    assert (first["words"], second["words"]) == (["a", "b", "c"], ["e", "f"])
    assert [len(m["values"]) for m in second["maps"].values()] == [2, 2]


# -- figures by hand ---------------------------------------------------------------------------------------------------


def test_maps_of_two_sizes_are_compared_at_the_coarser() -> None:
    fine, coarse = torch.rand(2, 4, 4), torch.rand(2, 2, 2)
    pooled = fine.unflatten(1, (2, 2)).unflatten(3, (2, 2)).mean((2, 4))
    expected = [float((a * b).sum() / (a.norm() * b.norm())) for a, b in zip(pooled, coarse, strict=True)]
    assert likeness._cosines(fine, coarse) == pytest.approx(expected, rel=1e-5)
    assert likeness._cosines(fine, fine) == pytest.approx([1, 1])
    assert likeness._cosines(fine, fine.flip(0)) != pytest.approx([1, 1], abs=1e-3)


def test_a_matrix_is_like_itself_and_one_that_says_nothing_like_none() -> None:
    a = likeness.relations(torch.randn(6, 3))
    assert likeness._correlation(a, a) == pytest.approx(1)
    assert likeness._correlation(a, 1 - a) == pytest.approx(-1)
    assert likeness._correlation(a, torch.ones(6, 6)) == 0
    assert not math.isclose(likeness._correlation(a, likeness.relations(torch.randn(6, 3))), 1, abs_tol=1e-3)


def test_without_classes_the_samples_are_the_first() -> None:
    data = Examples.read((torch.randn(9, 3), torch.randn(9, 1)), "test")
    evidence = Evidence(TASKS["regression"], data, None, [], {}, us.call)
    assert likeness._first_of_each(evidence, 6) == [0, 1, 2, 3, 4, 5]
    partly = Examples.read((torch.randn(5, 3), torch.tensor([-100, 1, 0, -100, 1])), "test")
    assert likeness._first_of_each(dataclasses.replace(evidence, data=partly), 6) == [2, 1, 4]


def test_a_view_of_the_job_names_its_layers(done: Distilled) -> None:
    (view,) = done.evidence.views
    assert isinstance(view, View)
    assert contents(done)["layers"][0]["student"] == "layer"
