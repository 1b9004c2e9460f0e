"""Methods under one protocol, on a part of the digits."""

import functools
import io
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from understudy import evaluate, job, registry, trained
from understudy.errors import CorruptError, InputError, Interrupted, NonFiniteError
from understudy.losses import kl
from understudy.material import Material
from understudy.measure import paired
from understudy.method import Distillation, Method
from understudy.methods import dafl, kd
from understudy.progress import Progress, linear
from understudy.ranking import compare as compare_module
from understudy.ranking import comparison
from understudy.ranking.compare import FACTORS, TUNING_SEEDS, Compared, compare
from understudy.ranking.contender import Contender, can_be_tuned
from understudy.recipe.examine import examine
from understudy.recipe.running import run
from understudy.recipe.text import Document, read, read_setting
from understudy.rehearsal import memory_of_step
from understudy.state import digest
from understudy.teachers import Ensemble
from understudy.term import Term
from understudy.writing import load_tensors
from understudy.zoo import CNN

RECIPE = """\
task: classification
data: {name: digits, train: 300, valid: 100, labelled: 60}
student: {name: CNN, channels: 4}
teacher: {model: {name: CNN, channels: 12}, epochs: 8, data: {name: digits, train: 600, valid: 100}}
method: {name: kd, temperature: 3, alpha: 0.3}
epochs: 8
seeds: 3
batch_size: 50
optimizer: {name: AdamW, lr: 1e-2}
device: cpu
threads: 1
"""

QUICK = ("epochs=2", "seeds=2", "teacher.epochs=3")

STARTS: dict[str, list[str]] = {}


def soft(student: nn.Module, teacher: Any) -> Method:
    """What helps where few samples have labels."""
    STARTS.setdefault("soft", []).append(digest(student))
    return kd(student, teacher, temperature=2, alpha=1.0)


class Shuffled(nn.Module):
    """A teacher that answers each sample with what belongs to the one before it."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, x: Tensor) -> Tensor:
        return self.teacher(x).roll(1, 0)


def shuffled(student: nn.Module, teacher: Any) -> Method:
    """The same, broken."""
    STARTS.setdefault("shuffled", []).append(digest(student))
    return kd(student, Shuffled(teacher), temperature=2, alpha=1.0)


def again(student: nn.Module, teacher: Any) -> Method:
    """kd with its defaults, under another name."""
    return kd(student, teacher)


def loud(student: nn.Module, teacher: Any, *, task: Any = None) -> Method:
    """Labels, drowned by what is wrong."""
    return Distillation(
        Term(task.label_loss, "student", "batch.label"),
        Term(functools.partial(kl, temperature=2), "student", "teacher", weight=linear(20, 20)),
        student=student,
        teacher=Shuffled(teacher),
    )


class Diverging(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        return kl(student, teacher) * torch.where(self.seen > 20, math.inf, 1.0)


def diverging(student: nn.Module, teacher: Any) -> Method:
    """Infinite, but not in its first steps."""
    return Distillation(Term(Diverging(), "student", "teacher"), student=student, teacher=teacher)


def broken(student: nn.Module, teacher: Any) -> Method:
    """A mistake of whoever wrote it."""
    raise ZeroDivisionError("oh")


@pytest.fixture(autouse=True)
def _no_export_for_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "_memory", lambda model, one: None)


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    before = dict(registry._PLUGGED)
    for method in (soft, shuffled, again, loud, diverging, broken):
        registry.register("method")(method)
    yield
    registry._PLUGGED.clear()
    registry._PLUGGED.update(before)


def document(folder: Path, *settings: str) -> Document:
    file = folder / "small.yaml"
    file.write_text(RECIPE)
    made = read(file)
    for where, value, place in map(read_setting, settings):
        made.set(where, value, place)
    return made


def compared(folder: Path, *names: str, settings: tuple[str, ...] = QUICK, **more: Any) -> Compared:
    console = more.pop("console", Console(quiet=True))
    return compare(document(folder, *settings), folder / "out", names=names, console=console, **more)


NAMES = ("soft", "shuffled", "kd", "again", "domain_adaptation", "specialists", "aekd", "diverging", "broken")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Compared, Path, str, list[tuple[str, str]]]:
    """A comparison, its folder, what it printed, and what was evaluated when."""
    folder, screen = tmp_path_factory.mktemp("compare"), io.StringIO()
    seen: list[tuple[str, str]] = []

    def noted(who: str, make: Any) -> Any:
        def outputs(model: Any, examples: Any, **more: Any) -> Tensor:
            seen.append((who, examples.name))
            return make(model, examples, **more)

        return outputs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "outputs", noted("training", job.outputs))
        patch.setattr(comparison, "outputs", noted("the end", comparison.outputs))
        made = compared(folder, *NAMES, settings=(), console=Console(file=screen, width=80))
    return made, folder / "out", screen.getvalue(), seen


def row(made: Compared, name: str) -> dict[str, Any]:
    return next(row for row in made.ranking.rows if row["method"] == name)


def weights(folder: Path) -> bytes:
    return (folder / "student.safetensors").read_bytes()


# -- the protocol ------------------------------------------------------------------------------------------------------


def test_what_teaches_helps_and_a_teacher_whose_answers_are_shuffled_does_not(done: Any) -> None:
    assert row(done[0], "soft")["verdict"] == "helped"
    assert row(done[0], "shuffled")["verdict"] != "helped"
    assert row(done[0], "shuffled")["difference"] < 0
    likeness = [row(done[0], name)["agreement"] for name in ("shuffled", "student alone", "soft")]
    assert likeness == sorted(likeness)


def test_every_method_has_the_same_starts_which_differ_between_seeds(done: Any) -> None:
    assert STARTS["soft"][-3:] == STARTS["shuffled"][-3:]
    assert len(set(STARTS["soft"][-3:])) == 3


def test_one_method_under_two_names_comes_to_the_same_bits(done: Any) -> None:
    out = done[1] / "methods"
    for seed in range(3):
        assert weights(out / f"kd/seed-{seed}") == weights(out / f"again/seed-{seed}")
    assert weights(out / "kd/seed-0") != weights(out / "kd/seed-1")
    assert weights(out / "kd/seed-0") != weights(out / "soft/seed-0")
    assert row(done[0], "kd")["values"] == row(done[0], "again")["values"]


def test_the_student_alone_and_a_method_are_those_of_a_run(done: Any, tmp_path: Path) -> None:
    settings = ("method={name: kd}", "fine_tune=false", "seeds=1", "report=false", "export=null")
    ran = run(document(tmp_path, *settings), tmp_path / "run", console=Console(quiet=True))
    assert weights(ran.folder / "alone/seed-0") == weights(done[1] / "alone/seed-0")
    assert weights(ran.folder / "teacher/seed-0") == weights(done[1] / "teacher/seed-0")
    assert weights(ran.folder / "distilled/seed-0") == weights(done[1] / "methods/kd/seed-0")


def test_the_test_data_is_touched_at_the_end_alone(done: Any) -> None:
    seen = done[3]
    assert {name for who, name in seen if who == "training"} <= {"valid", "train", "teacher_data"}
    assert [name for who, name in seen if who == "the end"] == ["test"] * (5 * 3 + 1)
    assert max(i for i, (who, _) in enumerate(seen) if who == "training") < seen.index(("the end", "test"))


def test_the_baseline_is_paired_over_seeds(done: Any) -> None:
    told, alone = row(done[0], "soft"), row(done[0], "student alone")
    assert told["p_value"] == paired(told["values"], alone["values"]).p_value
    assert told["values"][0] == pytest.approx(told["values"][0])
    assert len(alone["values"]) == 3


def test_costs_of_a_step_are_there_and_those_of_the_student_alone_are_the_unit(done: Any) -> None:
    assert row(done[0], "student alone")["step_ratio"] == 1
    assert row(done[0], "kd")["step_ms"] > 0
    assert row(done[0], "kd")["memory_mb"] > row(done[0], "student alone")["memory_mb"]  # the teacher's weights


# -- what cannot work --------------------------------------------------------------------------------------------------


def test_methods_that_cannot_work_are_listed_with_their_reasons(done: Any) -> None:
    told = {one["method"]: (one["why"], one["reason"]) for one in done[0].ranking.left_out}
    assert set(told) == {"domain_adaptation", "specialists", "aekd", "diverging", "broken"}
    assert told["domain_adaptation"][0] == "skipped"
    assert "batch has no field 'target'" in told["domain_adaptation"][1]
    assert "give classes=" in told["specialists"][1]
    assert told["aekd"] == ("skipped", "aekd: weighs several teachers, and the recipe has one.")
    assert told["diverging"][0] == "failed"
    assert "infinite" in told["diverging"][1] or "inf" in told["diverging"][1]
    assert told["broken"] == ("failed", "broken: ZeroDivisionError: oh")
    assert not {"diverging", "broken"} & {row["method"] for row in done[0].ranking.rows}


@pytest.mark.parametrize("members", [1, 2])
def test_methods_of_several_teachers_are_not_left_out_where_the_recipe_has_an_ensemble(
    members: int, tmp_path: Path
) -> None:
    examined = examine(document(tmp_path, *QUICK), folder=tmp_path / "out", progress=False)
    material, console = examined.material, Console(quiet=True)
    material.teacher = Ensemble(*(CNN(channels=12) for _ in range(members)))
    made = comparison.Comparison(material, tmp_path / "out", ["kd", "aekd", "ebkd"], False, console)
    assert [contender.name for contender, _ in made._rehearse()] == ["kd", "aekd", "ebkd"]


def test_it_does_not_run_in_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="compare: does everything in one process, and this is one of 2"):
        compared(tmp_path, "kd")
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(InputError, match="there is no method 'kdd'"):
        compared(tmp_path, "kdd")


def test_if_none_can_work_that_is_an_error_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no method can work here\.\ndomain_adaptation: "):
        compared(tmp_path, "domain_adaptation")
    assert not (tmp_path / "out" / "teacher").exists()


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("kd", "fitnet"), "there is no method 'fitnet'. Did you mean 'fitnets'?"),
        (("alone",), "there is no method 'alone'."),
        ((), "names no method"),
        (("kd", "-kd"), "names no method"),
        (("all", "-kdd"), "there is no method 'kdd'. Did you mean"),
    ],
)
def test_wrong_names_are_refused_before_anything_is_read(names: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        compared(tmp_path, *names)
    assert not (tmp_path / "out").exists()


def test_all_is_every_method_but_the_student_alone() -> None:
    chosen = compare_module._chosen(None)
    assert {"kd", "fitnets", "soft"} <= set(chosen)
    assert "alone" not in chosen
    assert compare_module._chosen(["all", "-kd"]) == [name for name in chosen if name != "kd"]
    assert compare_module._chosen(["fitnets", "kd", "fitnets"]) == ["fitnets", "kd"]


def test_without_a_label_there_is_nothing_to_compare_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Material, "__init__", _unlabelled(Material.__init__))
    with pytest.raises(InputError, match="no student alone to compare"):
        compared(tmp_path, "kd")


def _unlabelled(made: Any) -> Any:
    def init(self: Material, plan: Any) -> None:
        made(self, plan)
        self.hard = None

    return init


# -- stopped -----------------------------------------------------------------------------------------------------------


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Ctrl-C in the middle of a training."""
    left = [steps]
    stepped = trained.Shown.stepped

    def counted(self: Any, progress: Progress) -> None:
        stepped(self, progress)
        left[0] -= 1
        if left[0] == 0:
            raise Interrupted("stopped.")

    monkeypatch.setattr(trained.Shown, "stepped", counted)


def plain(made: Compared) -> list[dict[str, Any]]:
    """All but times."""
    return [{k: v for k, v in row.items() if not k.startswith("step_")} for row in made.ranking.rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    return compared(tmp_path_factory.mktemp("whole"), "kd", "crd")


@pytest.mark.parametrize("steps", [20, 36 + 13, 36 + 24 + 3 * 12 + 7])
def test_a_stopped_comparison_goes_on_to_the_same_bits(
    steps: int, whole: Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        with pytest.raises(Interrupted):
            compared(tmp_path, "kd", "crd")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("run.json")}
    assert not (tmp_path / "out" / "results.json").exists()
    resumed = compared(tmp_path, "kd", "crd", resume=True)
    assert plain(resumed) == plain(whole)
    files = sorted(whole.folder.rglob("student.safetensors"))
    assert len(files) == 1 + 3 * 2
    for path in files:
        assert path.read_bytes() == (tmp_path / "out" / path.relative_to(whole.folder)).read_bytes()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_what_is_done_is_not_done_again_and_methods_may_be_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compared(tmp_path, "kd")
    runs: list[str] = []
    make = trained.train_stage

    def noted(*args: Any, **more: Any) -> Any:
        runs.append(str(more["folder"].relative_to(tmp_path / "out")))
        return make(*args, **more)

    monkeypatch.setattr(trained, "train_stage", noted)
    second = compared(tmp_path, "kd", "dkd", resume=True)
    assert runs == ["methods/dkd/seed-0", "methods/dkd/seed-1"]
    assert row(second, "kd")["values"] == row(first, "kd")["values"]
    assert not list((tmp_path / "out").rglob("checkpoints"))


def test_a_comparison_is_not_begun_over_another(tmp_path: Path) -> None:
    compared(tmp_path, "kd")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    with pytest.raises(InputError, match=r"already holds a run. Go on with it: --resume"):
        compared(tmp_path, "kd")
    with pytest.raises(InputError, match="epochs was 2 and is 3"):
        compared(tmp_path, "kd", settings=("epochs=3", *QUICK[1:]), resume=True)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_a_run_and_a_comparison_are_not_taken_for_one_another(tmp_path: Path) -> None:
    compared(tmp_path, "kd")
    facts = json.loads((tmp_path / "out/job.json").read_text())
    assert facts.pop("what") == "a comparison of methods"  # all that sets it apart from a run of this recipe
    (tmp_path / "out/job.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match="a comparison of methods"):
        compared(tmp_path, "kd", resume=True)


def test_a_run_of_the_same_name_but_of_another_method_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared(tmp_path, "again")
    monkeypatch.setitem(registry._PLUGGED, ("method", "again"), registry.Entry("method", "again", soft, "other.py"))
    with pytest.raises(InputError, match="holds another run"):
        compared(tmp_path, "again", resume=True)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    compared(tmp_path, "kd")
    (tmp_path / "out/methods/kd/seed-0/run.json").write_text('{"told": {"valid": 1}}')
    with pytest.raises(CorruptError, match=r"kd/seed-0/run.json: is damaged"):
        compared(tmp_path, "kd", resume=True)


def test_a_teacher_that_diverges_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(material: Any, stage: str, *args: Any, **more: Any) -> Any:
        raise NonFiniteError("the loss is inf.")

    monkeypatch.setattr(trained, "train_stage", diverge)
    with pytest.raises(NonFiniteError, match="teacher: the loss is inf"):
        compared(tmp_path, "kd")


# -- weights -----------------------------------------------------------------------------------------------------------


def contender(folder: Path, name: str, factor: float) -> Contender:
    material = examine(document(folder), progress=False).material
    return Contender(name, material.with_method(registry.entry("method", name).make, {}), factor)


def test_a_factor_is_on_every_term_but_that_of_the_labels(tmp_path: Path) -> None:
    made = contender(tmp_path, "loud", 10.0)
    method = made.method(made.material.student(), made.material.teacher)
    assert [term.weight_at(Progress(5, 100)) for term in method.terms] == [1.0, 200.0]
    kd_by_ten = contender(tmp_path, "kd", 10.0)
    method = kd_by_ten.method(kd_by_ten.material.student(), kd_by_ten.material.teacher)
    assert [term.weight_at(Progress(5, 100)) for term in method.terms] == pytest.approx([0.1, 9.0])


def test_where_nothing_is_weighed_against_it_a_factor_is_not_tuned(tmp_path: Path) -> None:
    for name, tuned in (("kd", True), ("loud", True), ("soft", False), ("dafl", False)):
        made = contender(tmp_path, name, 1.0)
        assert can_be_tuned(made, made.material.teacher) is tuned, name


def test_tuning_chooses_by_validation_with_other_seeds(tmp_path: Path) -> None:
    made = compared(tmp_path, "loud", "soft", settings=("epochs=6", *QUICK[1:]), tune=True)
    out = tmp_path / "out"
    assert row(made, "loud")["factor"] == min(FACTORS)  # the less of it the better
    assert row(made, "soft")["factor"] is None
    runs = sorted(str(path.parent.relative_to(out / "tuning")) for path in (out / "tuning").rglob("run.json"))
    seeds = [f"seed-{1_000_000 + i}" for i in range(TUNING_SEEDS)]
    labels = ["loud" if f == 1 else f"loud-x{f:g}" for f in FACTORS]
    assert runs == sorted(f"{label}/{seed}" for label in labels for seed in seeds)
    assert {path.name for path in (out / "methods").iterdir()} == {"loud-x0.01", "soft"}
    assert "| loud (x0.01) |" in made.page.read_text()
    told = {f: [json.loads((out / "tuning" / label / s / "run.json").read_text())["told"]["valid"] for s in seeds]
            for f, label in zip(FACTORS, labels, strict=True)}  # fmt: skip
    assert max(told, key=lambda f: sum(told[f])) == min(FACTORS)


# -- what is written ---------------------------------------------------------------------------------------------------


def test_the_folder_holds_results_and_a_page_that_say_the_same(done: Any) -> None:
    made, out, _, _ = done
    results = json.loads((out / "results.json").read_text())
    assert results == made.ranking.results()
    page = (out / "methods.md").read_text()
    for one in results["rows"]:
        assert f"{one['accuracy']:.3f}" in page
    assert "understudy compare" in page
    assert "200" not in made.ranking.protocol["trained on"]
    assert made.ranking.protocol["trained on"].startswith("300 samples, 60 of them labelled")
    assert made.ranking.protocol["steps"] == "48 of 50 samples"


def test_the_screen_says_a_line_for_each_method_and_how_long_it_will_take(done: Any) -> None:
    told = done[2]
    assert "5 methods and the student alone, 3 students of each. Time, about: " in told
    assert re.search(r"^kd: accuracy 0\.\d{3} ± 0\.\d{3} on valid, \d+ s$", told, re.MULTILINE)


def test_the_page_keeps_the_first_command_when_the_comparison_goes_on(tmp_path: Path) -> None:
    compared(tmp_path, "kd", command=("understudy", "compare", "digits", "--seeds", "2"))
    made = compared(tmp_path, "kd", "dkd", resume=True)
    page = made.page.read_text()
    assert "# Methods on digits\n" in page
    assert "understudy compare digits --seeds 2 --methods kd,dkd\n" in page
    assert (tmp_path / "out/command.txt").read_text() == "understudy compare digits --seeds 2 --methods kd,dkd\n"


def test_a_step_of_two_moves_is_rehearsed_and_keeps_as_much_as_the_greater_of_them(tmp_path: Path) -> None:
    material = examine(document(tmp_path), progress=False).material
    with_generator = material.with_method("dafl", {})
    told = memory_of_step(with_generator, with_generator.method(material.student(), material.teacher))
    assert told > memory_of_step(material, material.alone(material.student()))


def test_what_a_method_makes_for_itself_starts_from_the_seed(tmp_path: Path) -> None:
    material = examine(document(tmp_path), progress=False).material.with_method("dafl", {})

    def start(seed: int) -> str:
        torch.rand(3)  # whatever has been drawn before
        return digest(material.method(material.student(0), material.teacher, seed).generator)

    assert start(0) == start(0) != start(1)
    free = [digest(dafl(material.student(0), material.teacher, example=material.example).generator) for _ in range(2)]
    assert free[0] != free[1]


def test_the_weights_that_are_measured_are_those_on_the_disk(done: Any, tmp_path: Path) -> None:
    material = examine(document(tmp_path), progress=False).material
    student = material.student(1)
    student.load_state_dict(load_tensors(done[1] / "methods/kd/seed-1/student.safetensors"))
    made = job.outputs(student, material.data["test"])
    assert material.task.metrics(made, material.data["test"].labels)["accuracy"] == row(done[0], "kd")["values"][1]
