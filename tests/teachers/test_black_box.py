"""Teachers of other libraries: what can be read of them, what they give, and what is refused."""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import pickle
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import understudy as us
from understudy import Distillation, Term, methods
from understudy.errors import AddressError, CorruptError, InputError, MachineError, MissingExtra
from understudy.losses import kl, mse
from understudy.state import digest
from understudy.teachers import BlackBox, Estimator, Exported, Onnx, keras, load_weights
from understudy.teachers.black_box import as_logits, library

X = torch.randn(7, 1, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(7) % 3


def net(seed: int = 0, dropout: float = 0.0, softmax: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(8, 3)]
        return nn.Sequential(*layers, *([nn.Softmax(-1)] if softmax else [])).eval()


def doubled(x: np.ndarray) -> np.ndarray:
    return 2 * x.reshape(len(x), -1)[:, :3]


# -- any function of arrays --------------------------------------------------------------------------------------------


def test_a_function_of_arrays_teaches():
    box = BlackBox(doubled, "mine")
    student = net()
    method = methods.kd(student, box, alpha=1.0, temperature=1.0)
    torch.testing.assert_close(method.loss((X, Y)), kl(student(X), 2 * X.flatten(1)[:, :3]).mean())
    method.loss((X, Y)).backward()
    assert student[0].weight.grad.ne(0).any()


def test_only_its_last_output_has_an_address():
    for teacher in (BlackBox(doubled, "mine"), exported(net())):
        with pytest.raises(AddressError, match="gives its last output only"):
            Distillation(Term(mse, "student.0", "teacher.layer3"), student=net(), teacher=teacher)
        with pytest.raises(InputError, match="has no layers to choose from"):
            methods.fitnets(net(), teacher, example=(X, Y))


def test_a_gradient_that_would_have_to_flow_through_it_is_refused():
    with pytest.raises(InputError, match="mine: no gradient flows through it"):
        BlackBox(doubled, "mine")(X.clone().requires_grad_())
    with torch.no_grad():
        BlackBox(doubled, "mine")(X.clone().requires_grad_())


def test_channels_go_last_where_that_is_asked_for():
    seen: list[tuple[int, ...]] = []

    def look(x: np.ndarray) -> np.ndarray:
        seen.append(x.shape)
        return x.reshape(len(x), -1)

    pictures = torch.arange(48.0).reshape(2, 2, 3, 4)
    torch.testing.assert_close(
        BlackBox(look, "mine", channels="last")(pictures), pictures.permute(0, 2, 3, 1).flatten(1)
    )
    torch.testing.assert_close(BlackBox(look, "mine")(pictures), pictures.flatten(1))
    assert seen == [(2, 3, 4, 2), (2, 2, 3, 4)]


def test_probabilities_become_logits_that_softmax_takes_back():
    p = np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    found = BlackBox(lambda x: p, "mine", gives="probabilities", floor=1e-3)(torch.zeros(2, 1))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[0].softmax(-1).double(), torch.tensor(p[0]))
    torch.testing.assert_close(found[1], torch.tensor([1.0, 1e-3, 1e-3]).log())
    raw = BlackBox(lambda x: p, "mine")(torch.zeros(2, 1))
    assert not torch.allclose(raw[0].softmax(-1).double(), torch.tensor(p[0]), rtol=1e-2)


def test_a_single_probability_is_that_of_yes():
    torch.testing.assert_close(
        as_logits(torch.tensor([0.2, 0.9]), "probabilities", 1e-6, "mine").exp(),
        torch.tensor([[0.8, 0.2], [0.1, 0.9]]),
    )


def test_independent_probabilities_become_logits_that_sigmoid_takes_back():
    p = torch.tensor([[0.2, 0.9, 0.5], [0.9, 0.8, 0.0]])
    made = as_logits(p, "independent", 1e-3, "mine")
    torch.testing.assert_close(made.sigmoid(), p.clamp(1e-3, 1 - 1e-3))
    assert as_logits(p[:, 0], "independent", 1e-3, "mine").shape == (2, 1)
    with pytest.raises(InputError, match=r"rows that add up to 1\.6 to 1\.7, and not to 1\. Say gives='independent'"):
        as_logits(p, "probabilities", 1e-3, "mine")
    # The control: as classes' they would be others.
    assert not torch.allclose(p.log().sigmoid(), p, rtol=0.1)


def test_inputs_by_name_and_half_precision_arrive_as_arrays():
    box = BlackBox(lambda a, b: np.asarray(a) + np.asarray(b), "mine")
    assert box(torch.ones(2, 3, dtype=torch.bfloat16), b=torch.ones(2, 3)).eq(2).all()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda x: x[:3], "a row for each"),
        (lambda x: np.float32(3), "a row for each"),
        (lambda x: {"a": x, "b": x}, "dict with a, b"),
        (lambda x: [x, x[:, :, :1]], "not one array"),
        (lambda x: 1 / 0, "cannot take .*ZeroDivisionError"),
        (lambda x: "text", "not one array"),
    ],
)
def test_an_answer_that_is_none_is_refused(answer, told):
    with pytest.raises(InputError, match=f"mine: .*({told})"):
        BlackBox(answer, "mine")(X)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"gives": "logit"}, "Did you mean 'logits'"),
        ({"channels": "middle"}, "Allowed: first, last"),
        ({"floor": 0.0}, "floor"),
    ],
)
def test_options_that_are_none_are_refused(options, told):
    with pytest.raises(InputError, match=told):
        BlackBox(doubled, "mine", **options)
    with pytest.raises(InputError, match="no probabilities"):
        BlackBox(doubled, "mine", gives="probabilities")(100 * X)


def test_it_is_known_by_what_identifies_it_and_is_never_copied(tmp_path):
    files = [tmp_path / name for name in "ab"]
    for file in files:
        file.write_text("same")
    one, same = (BlackBox(doubled, "mine", known_by=[file]) for file in files)
    assert digest(one) == digest(same)
    files[1].write_text("other")
    assert digest(one) != digest(BlackBox(doubled, "mine", known_by=[files[1]]))
    assert not hasattr(BlackBox(doubled, "mine"), "state_dict")
    assert copy.deepcopy(one) is one
    with pytest.raises(InputError, match="weights go into a module"):
        load_weights(one, files[0])  # type: ignore[arg-type]


def test_under_compile_it_runs_as_it_is():
    torch._dynamo.reset()
    try:
        student, box = net(), BlackBox(doubled, "mine")
        plain = methods.kd(student, box, alpha=1.0).loss((X, Y))
        torch.testing.assert_close(methods.kd(student, box, alpha=1.0, compile=True).loss((X, Y)), plain)
    finally:
        torch._dynamo.reset()


def test_a_library_that_is_missing_names_its_extra_and_one_that_is_broken_does_not(monkeypatch):
    with pytest.raises(MissingExtra, match=r"understudy\[tf\]"):
        library("no_such_library.at_all", "A teacher", "tf")

    def fail(name: str) -> None:
        raise ImportError("libfoo.so is of another version")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(MachineError, match="cannot be imported: libfoo") as told:
        library("broken_library", "A teacher", "tf")
    assert not isinstance(told.value, MissingExtra)


# -- ONNX --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    pytest.importorskip("onnxruntime")
    from understudy.export import to_onnx

    path = tmp_path_factory.mktemp("onnx") / "teacher.onnx"
    to_onnx(net(), X, path)
    return path


def test_an_onnx_file_gives_what_the_model_gave(file):
    teacher = Onnx(file)
    torch.testing.assert_close(teacher(X), net()(X).detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(teacher(X[:2].double()), net()(X[:2]).detach(), rtol=1e-4, atol=1e-5)
    value = methods.kd(net(1), teacher, alpha=1.0).loss({"input": X, "label": Y})
    torch.testing.assert_close(value, methods.kd(net(1), net(), alpha=1.0).loss((X, Y)), rtol=1e-4, atol=1e-5)
    assert digest(teacher) == digest(Onnx(file))


def test_onnx_files_that_cannot_be_are_refused(file, tmp_path):
    with pytest.raises(InputError, match=r"no such file. Did you mean 'teacher.onnx'"):
        Onnx(file.with_name("teachr.onnx"))
    with pytest.raises(InputError, match=r"has no output 'logits'. Allowed: output"):
        Onnx(file, output="logits")
    (tmp_path / "broken.onnx").write_bytes(file.read_bytes()[:200])
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(CorruptError, match="no ONNX file"):
        Onnx(tmp_path / "broken.onnx")
    with pytest.raises(CorruptError, match="is empty"):
        Onnx(tmp_path / "empty.onnx")
    with pytest.raises(InputError, match="called with 2 arrays"):
        Onnx(file)(X, X)
    with pytest.raises(InputError, match=r"cannot take \[7, 3\]"):
        Onnx(file)(X.flatten(1)[:, :3])


def test_an_onnx_file_for_one_size_of_batch_says_so(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "g",
        [value("x", onnx.TensorProto.FLOAT, [1, 3])], [value("y", onnx.TensorProto.FLOAT, [1, 3])],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "one.onnx"))
    teacher = Onnx(tmp_path / "one.onnx")
    assert teacher(torch.ones(1, 3)).shape == (1, 3)
    with pytest.raises(InputError, match="batches of 1 only, and this one has 2"):
        teacher(torch.ones(2, 3))


def test_the_whole_job_runs_with_an_onnx_teacher(file, tmp_path):
    pytest.importorskip("onnxruntime")
    with torch.no_grad():
        wild = 9 * torch.randn(40, 1, 4, 4, generator=torch.Generator().manual_seed(1))
        data = (wild, net()(wild).argmax(-1))
    assert len(data[1].unique()) > 1
    result = us.distill(
        net(3), Onnx(file), train=data, valid=data, epochs=2, seeds=1, fine_tune=False, progress=False, batch_size=7,
        folder=tmp_path / "run",
    )  # fmt: skip
    assert (
        list((tmp_path / "run").glob("store/shards/*.safetensors")) != []
    )  # known by its file, so that a resumed job finds them
    assert result.rows


# -- estimators --------------------------------------------------------------------------------------------------------

FLAT = X.flatten(1).numpy()


class Constant:
    """The interface of a classifier, as others have it."""

    def __init__(self, classes: list[Any] | None = (0, 1, 2)) -> None:
        if classes is not None:
            self.classes_ = np.array(classes)

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        assert rows.ndim == 2
        return np.tile([0.0, 0.75, 0.25], (len(rows), 1))


def test_an_estimators_probabilities_are_logits_in_float32():
    teacher = Estimator(Constant())
    found = teacher(X)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([[1e-6, 0.75, 0.25]]).log().expand(7, 3))
    value = methods.kd(net(), teacher).loss((X, Y))
    assert value.isfinite()


@pytest.mark.parametrize("kind", ["forest", "pipeline", "regressor"])
def test_scikit_learns_estimators_teach(kind):
    pytest.importorskip("sklearn")
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if kind == "regressor":
        fitted = Ridge().fit(FLAT, FLAT[:, 0])
        torch.testing.assert_close(
            Estimator(fitted)(X).double(), torch.tensor(fitted.predict(FLAT)).double()[:, None], rtol=1e-4, atol=1e-5
        )
        return
    made = (
        RandomForestClassifier(5, random_state=0)
        if kind == "forest"
        else make_pipeline(StandardScaler(), LogisticRegression())
    )
    fitted = made.fit(FLAT, Y.numpy())
    expected = torch.tensor(fitted.predict_proba(FLAT)).clamp(min=1e-6).log().float()
    torch.testing.assert_close(Estimator(fitted)(X), expected)


@pytest.mark.long
@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_boosted_trees_teach_by_the_same_interface(library):
    module = pytest.importorskip(library)
    made = (
        module.XGBClassifier(n_estimators=3)
        if library == "xgboost"
        else module.LGBMClassifier(n_estimators=3, verbose=-1)
    )
    rows, label = np.random.default_rng(0).normal(size=(60, 16)), np.arange(60) % 3
    fitted = made.fit(rows, label)
    expected = torch.tensor(np.asarray(fitted.predict_proba(FLAT))).double().clamp(min=1e-6).log().float()
    torch.testing.assert_close(Estimator(fitted)(X), expected)
    with pytest.raises(InputError, match="has not been fitted"):
        Estimator(type(made)())


@pytest.mark.parametrize(
    ("estimator", "told"),
    [
        (Path("forest.joblib"), "is a path; .* runs code when it is loaded"),
        ("forest.pkl", "is a path"),
        (Constant(None), "has not been fitted"),
        (Constant([1, 2, 3]), r"the labels \[1, 2, 3\].*0 to 2 in this order.*classes=\[1, 2, 3\]"),
        (Constant([1, 0, 2]), r"the labels \[1, 0, 2\]"),
        (Constant(["a", "b", "c"]), r"the labels \['a', 'b', 'c'\]"),
        (Constant, "has neither"),
        (3, "a int has neither"),
    ],
)
def test_what_is_no_fitted_estimator_of_the_students_classes_is_refused(estimator, told):
    with pytest.raises(InputError, match=told):
        Estimator(estimator)


def test_a_classifier_without_probabilities_is_refused():
    pytest.importorskip("sklearn")
    from sklearn.svm import LinearSVC

    with pytest.raises(InputError, match="CalibratedClassifierCV"):
        Estimator(LinearSVC().fit(FLAT, Y.numpy()))


# -- exported programs -------------------------------------------------------------------------------------------------


def exported(model: nn.Module, dynamic: bool = True) -> Exported:
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    return Exported(torch.export.export(model, (X[:2],), dynamic_shapes=shapes))


def test_an_exported_program_gives_what_the_model_gave():
    teacher = exported(net())
    torch.testing.assert_close(teacher(X), net()(X))
    value = methods.kd(net(1), teacher, alpha=1.0).loss((X, Y))
    torch.testing.assert_close(value, methods.kd(net(1), net(), alpha=1.0).loss((X, Y)))
    assert digest(teacher) == digest(exported(net())) != digest(exported(net(1)))
    assert copy.deepcopy(teacher) is teacher


def test_a_gradient_flows_through_a_program_and_not_into_it():
    program = torch.export.export(net(), (X[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    leaf = X.clone().requires_grad_()
    Exported(program)(leaf).sum().backward()
    assert leaf.grad.ne(0).any()
    assert all(p.grad is None and p.requires_grad for p in program.parameters())


def test_a_saved_program_teaches_once_its_user_has_loaded_it(tmp_path):
    program = torch.export.export(net(), (X[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "teacher.pt2")
    with pytest.raises(InputError, match="unpickles what the file holds and executes its guards"):
        Exported(tmp_path / "teacher.pt2")  # type: ignore[arg-type]
    torch.testing.assert_close(Exported(torch.export.load(tmp_path / "teacher.pt2"))(X), net()(X))


def test_loading_a_program_runs_what_its_file_holds(tmp_path):
    """Why there is no path to give. Should this ever fail, look at it again."""

    class Planted:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.export.save(torch.export.export(net(), (X[:2],)), tmp_path / "sound.pt2")
    with zipfile.ZipFile(tmp_path / "sound.pt2") as sound, zipfile.ZipFile(tmp_path / "hostile.pt2", "w") as hostile:
        for name in sound.namelist():
            content = sound.read(name)
            if name.endswith("model_constants_config.json"):
                told = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
                content = json.dumps({"config": {"x": told}}).encode()
                hostile.writestr(name.replace("model_constants_config.json", "opaque_obj_0"), pickle.dumps(Planted()))
            hostile.writestr(name, content)
    with contextlib.suppress(Exception):
        torch.export.load(tmp_path / "hostile.pt2")
    assert (tmp_path / "ran").exists()


def test_programs_that_cannot_teach_are_refused():
    with pytest.raises(InputError, match="train mode"):
        exported(net(dropout=0.5).train())
    with pytest.raises(InputError, match="no program"):
        Exported(net())  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"cannot take \[7, 1, 4, 4\].*dynamic_shapes"):
        exported(net(), dynamic=False)(X)


# -- Keras without Keras -----------------------------------------------------------------------------------------------


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", "{}")


def fake_keras(load: Any) -> types.ModuleType:
    module = types.ModuleType("keras")
    module.__version__ = "3.0"  # type: ignore[attr-defined]
    module.device = lambda name: contextlib.nullcontext()  # type: ignore[attr-defined]
    module.saving = types.SimpleNamespace(load_model=load)  # type: ignore[attr-defined]
    return module


class FakeModel:
    """A model of another backend."""

    name = "sequential"

    def __call__(self, x: np.ndarray, training: bool) -> np.ndarray:
        assert training is False
        assert x.shape[-1] == 1
        e = np.exp(x.reshape(len(x), -1)[:, :3])
        return e / e.sum(1, keepdims=True)


class FakeLayer(nn.Flatten):
    name = "flatten"


class FakeTorchModel(nn.Module):
    """A model of the torch backend: a module whose layers are no submodules."""

    name = "sequential"

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["layers"] = [FakeLayer()]

    def forward(self, x: Tensor, training: bool) -> Tensor:
        assert training is False
        return self.layers[0](x)[:, :3]


def test_a_keras_model_of_another_backend_is_a_black_box(monkeypatch, tmp_path):
    path = tmp_path / "teacher.keras"
    archive(path)
    given: dict[str, Any] = {}
    monkeypatch.setitem(sys.modules, "keras", fake_keras(lambda p, **options: given.update(options) or FakeModel()))
    teacher = keras(path, gives="probabilities", channels="last")
    assert given == {"compile": False, "safe_mode": True}
    torch.testing.assert_close(teacher(X).exp(), X.flatten(1)[:, :3].softmax(-1))
    with pytest.raises(AddressError, match="gives its last output only"):
        Distillation(Term(mse, "student.0", "teacher.flatten"), student=net(), teacher=teacher)


def test_a_keras_model_on_torch_is_a_module_whose_layers_have_addresses(monkeypatch, tmp_path):
    path = tmp_path / "teacher.keras"
    archive(path)
    monkeypatch.setitem(sys.modules, "keras", fake_keras(lambda p, **options: FakeTorchModel()))
    teacher = keras(path)
    method = Distillation(
        Term(mse, "student.3", "teacher.flatten"), Term(kl, "student", "teacher"), student=net(), teacher=teacher
    )
    with pytest.raises(InputError, match=r"teacher.flatten.*\[7, 8\] \(student\) and \[7, 16\]"):
        method.dry_run((X, Y))
    torch.testing.assert_close(teacher(X), X.flatten(1)[:, :3])


def test_keras_files_that_may_hold_code_are_refused(monkeypatch, tmp_path):
    def refuse(path: str, **options: Any) -> None:
        raise ValueError("Requested the deserialization of a `Lambda` layer")

    monkeypatch.setitem(sys.modules, "keras", fake_keras(refuse))
    for name in ("teacher.keras", "teacher.h5"):
        archive(tmp_path / name)
    with pytest.raises(InputError, match="without running code that it holds"):
        keras(tmp_path / "teacher.keras")
    with pytest.raises(InputError, match=r"no \.keras file"):
        keras(tmp_path / "teacher.h5")
    with pytest.raises(InputError, match="no such file"):
        keras(tmp_path / "teachr.keras")
    (tmp_path / "broken.keras").write_bytes((tmp_path / "teacher.keras").read_bytes()[:20])
    with pytest.raises(CorruptError, match="is damaged, or no file of Keras"):
        keras(tmp_path / "broken.keras")


def test_without_keras_its_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "keras", None)
    archive(tmp_path / "teacher.keras")
    with pytest.raises(MissingExtra, match=r"understudy\[tf\]"):
        keras(tmp_path / "teacher.keras")
