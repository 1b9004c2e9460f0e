"""Every kind of teacher that needs no extra library teaches, and is known again. test_keras.py has those of Keras and TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from teaching import INPUTS, NEW, Net, agreement, labels, put_to_it, teach
from torch import Tensor

from understudy.errors import InputError
from understudy.state import digest
from understudy.teachers import BlackBox, Ensemble, Estimator, Exported, Onnx


@pytest.fixture(autouse=True)
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr("understudy.evaluate._memory", lambda *_: None)  # a process for each model


@pytest.fixture(scope="module")
def nets() -> tuple[Net, Net]:
    return Net(1).trained(), Net(2).trained()


def rows(inputs: Tensor) -> Any:
    return inputs.flatten(1).numpy()


def forest(seed: int, labelled: Callable[[Tensor], Any] = labels) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(20, random_state=seed).fit(rows(INPUTS), np.asarray(labelled(INPUTS)))


def exported(net: Net) -> Exported:
    shapes = ({0: torch.export.Dim("batch")},)
    return Exported(torch.export.export(net, (INPUTS[:2],), dynamic_shapes=shapes))


def in_onnx(net: Net, path: Path) -> Onnx:
    pytest.importorskip("onnxruntime")
    from understudy.export import to_onnx

    to_onnx(net, INPUTS[:4], path)
    return Onnx(path)


def test_an_estimator_teaches(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression

    fitted, other = (LogisticRegression(C=c).fit(rows(INPUTS), labels(INPUTS).numpy()) for c in (100.0, 50.0))
    teacher = Estimator(fitted)
    told = np.log(np.clip(fitted.predict_proba(rows(NEW)), 1e-6, 1))
    assert np.abs(teacher(NEW).numpy() - told).max() < 1e-6
    put_to_it(teacher, Estimator(other), tmp_path)


def test_an_exported_program_teaches(nets: tuple[Net, Net], tmp_path: Path) -> None:
    teacher = exported(nets[0])
    assert (teacher(NEW) - nets[0](NEW)).abs().max() < 1e-6
    put_to_it(teacher, exported(nets[1]), tmp_path)


def test_an_onnx_file_teaches(nets: tuple[Net, Net], tmp_path: Path) -> None:
    teacher = in_onnx(nets[0], tmp_path / "teacher.onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "teacher.onnx"))
    (told,) = session.run(None, {session.get_inputs()[0].name: NEW.numpy()})
    assert np.abs(teacher(NEW).numpy() - told).max() < 1e-6
    torch.testing.assert_close(teacher(NEW), nets[0](NEW), rtol=1e-4, atol=1e-5)
    put_to_it(teacher, in_onnx(nets[1], tmp_path / "other.onnx"), tmp_path / "run")


def test_an_ensemble_of_a_module_and_a_program_teaches(nets: tuple[Net, Net], tmp_path: Path) -> None:
    put_to_it(Ensemble(nets[0], exported(nets[1])), Ensemble(nets[0], exported(nets[0])), tmp_path)


def test_a_function_teaches_though_nothing_tells_it_from_another(nets: tuple[Net, Net]) -> None:
    teacher = BlackBox(lambda x: nets[0](torch.from_numpy(x)).numpy(), "mine")
    assert agreement(teach(teacher).student, teacher) > 0.85


# -- estimators --------------------------------------------------------------------------------------------------------


def test_labels_of_an_estimator_are_put_in_the_students_order() -> None:
    pytest.importorskip("sklearn")
    names = np.array(["two", "nought", "one"])  # of the classes 0, 1 and 2; in the alphabet nought, one, two
    fitted = forest(0, lambda x: names[labels(x)])
    with pytest.raises(InputError, match=r"fitted on the labels \['nought', 'one', 'two'\].*classes="):
        Estimator(fitted)
    teacher = Estimator(fitted, classes=names.tolist())
    assert (teacher(INPUTS).argmax(1) == labels(INPUTS)).float().mean() > 0.99
    # The control: in the estimator's own order they are others' columns.
    wrong = Estimator(fitted, classes=sorted(names.tolist()))
    assert (wrong(INPUTS).argmax(1) == labels(INPUTS)).float().mean() < 0.5
    assert digest(wrong) != digest(teacher)


@pytest.mark.parametrize("classes", [["nought", "one"], ["nought", "one", "three"], [0, 1, 2]])
def test_classes_that_are_not_the_estimators_are_refused(classes: list[Any]) -> None:
    pytest.importorskip("sklearn")
    names = np.array(["two", "nought", "one"])
    with pytest.raises(InputError, match="are not the labels that RandomForestClassifier was fitted on"):
        Estimator(forest(0, lambda x: names[labels(x)]), classes=classes)


def test_a_regressor_has_no_classes() -> None:
    pytest.importorskip("sklearn")
    from sklearn.linear_model import Ridge

    fitted = Ridge().fit(rows(INPUTS), rows(INPUTS)[:, :2])
    with pytest.raises(InputError, match="is a regressor, which has no classes"):
        Estimator(fitted, classes=[0, 1])
    assert Estimator(fitted)(NEW).shape == (len(NEW), 2)
    assert digest(Estimator(fitted)) != digest(Estimator(Ridge(alpha=9).fit(rows(INPUTS), rows(INPUTS)[:, :2])))


def test_an_estimator_is_known_by_what_it_says() -> None:
    pytest.importorskip("sklearn")
    assert digest(Estimator(forest(0))) == digest(Estimator(forest(0)))
    assert digest(Estimator(forest(0))) != digest(Estimator(forest(1)))

    class Unknown:
        classes_ = np.arange(3)

        def predict_proba(self, given: Any) -> Any:
            return np.full((len(given), 3), 1 / 3)

    assert digest(Estimator(Unknown())) == "Estimator"  # it does not say how wide a row is


def test_an_estimator_with_a_column_too_few_is_refused() -> None:
    class Short:
        classes_ = np.arange(3)

        def predict_proba(self, given: Any) -> Any:
            return np.full((len(given), 2), 0.5)

    with pytest.raises(InputError, match=r"gave \[200, 2\] for 200 rows of 3 classes"):
        Estimator(Short())(NEW)


# -- what they are known by --------------------------------------------------------------------------------------------


def test_programs_of_the_same_weights_that_do_something_else_are_told_apart(nets: tuple[Net, Net]) -> None:
    class Turned(Net):
        def forward(self, x: Tensor) -> Tensor:
            return -super().forward(x)

    class Halved(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 0.5

    class Doubled(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2.0

    kinds = [digest(exported(kind(1))) for kind in (Net, Turned, Halved, Doubled)]
    assert len({*kinds}) == 4
    assert digest(exported(Net(1))) == kinds[0]


def with_weights_beside(folder: Path, location: str = "weights.bin", value: float = 1.0) -> Path:
    onnx = pytest.importorskip("onnx")
    folder.mkdir(parents=True, exist_ok=True)
    weight = onnx.TensorProto(name="w", data_type=1, dims=[3, 2], data_location=onnx.TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    tell = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [tell("x", 1, ["n", 3])], [tell("y", 1, ["n", 2])], [weight],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (folder / "teacher.onnx").write_bytes(model.SerializeToString())
    np.full(6, value, np.float32).tofile(folder / "weights.bin")
    return folder / "teacher.onnx"


def test_an_onnx_teacher_is_known_by_the_weights_beside_it_too(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    ones, same, twos = (
        Onnx(with_weights_beside(tmp_path / name, value=v)) for name, v in (("a", 1.0), ("b", 1.0), ("c", 2.0))
    )
    assert twos(torch.ones(1, 3)).tolist() == [[6.0, 6.0]]
    assert digest(ones) == digest(same) != digest(twos)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname"])
def test_weights_elsewhere_are_not_read(tmp_path: Path, location: str) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(InputError, match="only files beside it"):
        Onnx(with_weights_beside(tmp_path / "a", location))


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(InputError, match=r"weights.bim: there is no such file. Did you mean 'weights.bin'"):
        Onnx(with_weights_beside(tmp_path, "weights.bim"))
