from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from understudy.errors import CorruptError, InputError, MachineError, MissingExtra
from understudy.export import check_onnx, comparing, graph, model, run_onnx, session, to_onnx
from understudy.export.model import OneOutput, outputs

from .models import (
    Bessel,
    Branch,
    Eigenvalues,
    FixedBatch,
    Gives,
    Mixes,
    Named,
    Noise,
    Text,
    digits_model,
    text,
    varied,
)

LINEAR = torch.linspace(-2, 2, 20).reshape(5, 4)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return varied(300)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, images: Tensor) -> Path:
    path = tmp_path_factory.mktemp("exported") / "made" / "for it" / "student.onnx"
    to_onnx(digits_model(), images, path)
    return path


# -- what is in the file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 2, 7, 300])
def test_the_file_says_what_the_model_says_for_batches_of_any_size(file: Path, images: Tensor, samples: int) -> None:
    expected = outputs(digits_model(), images[:samples])
    torch.testing.assert_close(run_onnx(file, images[:samples], batch_size=300), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(run_onnx(file, images[:samples], batch_size=7), expected, rtol=0, atol=1e-6)


def test_the_file_has_one_input_and_one_output_and_a_free_batch(file: Path) -> None:
    opened = session(file)
    described = [(i.name, i.type, i.shape) for i in (*opened.get_inputs(), *opened.get_outputs())]
    assert described == [
        ("input", "tensor(float)", ["batch", 1, 8, 8]),
        ("output", "tensor(float)", ["batch", 10]),
    ]


def test_the_file_tells_nothing_of_this_machine_and_is_the_same_each_time(
    file: Path, images: Tensor, tmp_path: Path
) -> None:
    source = Path(sys.modules[type(digits_model()).__module__].__file__ or "")
    assert source.name.encode() not in file.read_bytes()
    assert b"stack_trace" not in file.read_bytes()
    to_onnx(digits_model(), images[:4], tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == file.read_bytes()


def test_control_what_the_exporter_writes_tells_the_place_of_the_source(images: Tensor, tmp_path: Path) -> None:
    with graph.quiet():
        torch.onnx.export(digits_model().eval(), (images[:2],), tmp_path / "raw.onnx", dynamo=True, external_data=False)
    assert b"stack_trace" in (tmp_path / "raw.onnx").read_bytes()
    assert b"zoo/cnn.py" in (tmp_path / "raw.onnx").read_bytes()


def test_integers_and_several_inputs_go_by_name(tmp_path: Path) -> None:
    student, samples = Text(), text(20)
    found = to_onnx(student, samples, tmp_path / "text.onnx")
    assert found["samples"] == 20
    assert found["agreement"] == 1
    opened = session(tmp_path / "text.onnx")
    assert [(i.name, i.type) for i in opened.get_inputs()] == [("ids", "tensor(int64)"), ("mask", "tensor(float)")]
    backwards = dict(reversed(list(text(40).items())))
    torch.testing.assert_close(run_onnx(tmp_path / "text.onnx", backwards), student.eval()(**text(40))["logits"])
    with pytest.raises(InputError, match=r"text\.onnx takes ids, mask, but was given ids, masks"):
        run_onnx(tmp_path / "text.onnx", {"ids": samples["ids"], "masks": samples["mask"]})
    with pytest.raises(InputError, match="takes ids, mask, but was given input"):
        run_onnx(tmp_path / "text.onnx", samples["ids"])
    with pytest.raises(
        InputError, match=r"does not run on ids int64 \[20, 6\], mask float32 \[20, 6\].*out of.*bounds"
    ):
        run_onnx(tmp_path / "text.onnx", {**samples, "ids": samples["ids"] + 50})


@pytest.mark.parametrize(
    "wrap",
    [lambda y: y, lambda y: (y,), lambda y: [y], lambda y: {"scores": y}, lambda y: {"loss": None, "logits": y}, lambda y: Named(None, y)],
    ids=["tensor", "tuple", "list", "mapping of one", "mapping with logits", "object with logits"],
)  # fmt: skip
def test_the_output_may_be_a_tensor_or_hold_logits_or_one_tensor(wrap: Any) -> None:
    student = Gives(wrap)
    torch.testing.assert_close(OneOutput(student, LINEAR)(LINEAR), student.layer(LINEAR))


def test_an_object_with_logits_is_exported(tmp_path: Path) -> None:
    student = Gives(lambda y: Named(None, y))
    to_onnx(student, LINEAR, tmp_path / "m.onnx")
    torch.testing.assert_close(run_onnx(tmp_path / "m.onnx", LINEAR), student.layer(LINEAR))


def test_half_precision_is_exported_and_bfloat16_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = nn.Linear(4, 3)
    to_onnx(student.half(), LINEAR.half(), tmp_path / "half.onnx", tolerance=1e-2)
    assert run_onnx(tmp_path / "half.onnx", LINEAR.half()).dtype == torch.float16
    with pytest.raises(InputError, match=r"numpy has no bfloat16. Export model.float"):
        to_onnx(student.bfloat16(), LINEAR.bfloat16(), tmp_path / "b.onnx")


def test_weights_beyond_what_one_file_may_hold_are_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.onnx._internal.exporter._onnx_program, "_LARGE_MODEL_THRESHOLD", 1000)
    student = nn.Linear(4, 300)
    to_onnx(student, LINEAR, tmp_path / "big.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["big.onnx", "big.onnx.data"]
    torch.testing.assert_close(run_onnx(tmp_path / "big.onnx", LINEAR), student(LINEAR))


# -- the model comes back as it was ------------------------------------------------------------------------------------


def test_a_model_in_train_mode_is_exported_in_eval_mode_and_comes_back_as_it_was(
    images: Tensor, tmp_path: Path
) -> None:
    student = nn.Sequential(digits_model(), nn.Dropout(0.5), nn.BatchNorm1d(10))
    student[2].eval()  # a user's own choice, which a plain train() would undo
    student[0].head.weight.requires_grad_(False)
    modes = [m.training for m in student.modules()]
    wanted = [p.requires_grad for p in student.parameters()]
    before = {k: v.clone() for k, v in student.state_dict().items()}
    to_onnx(student, images[:9], tmp_path / "m.onnx")
    assert [m.training for m in student.modules()] == modes
    assert [p.requires_grad for p in student.parameters()] == wanted
    assert list(student.state_dict()) == list(before)
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in student.modules())
    assert all(p.grad is None for p in student.parameters())
    torch.testing.assert_close(run_onnx(tmp_path / "m.onnx", images), student.eval()(images), rtol=0, atol=1e-6)


def test_control_without_eval_mode_the_export_is_refused(
    images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (graph, model):
        monkeypatch.setattr(module, "evaluating", lambda _: torch.no_grad())
    with pytest.raises(InputError, match="says something else of a sample by itself"):
        to_onnx(nn.Sequential(digits_model(), nn.Dropout(0.5)), images[:9], tmp_path / "m.onnx")


def test_the_mode_is_put_back_when_the_export_fails(tmp_path: Path) -> None:
    student = nn.Sequential(nn.Dropout(), Bessel())
    with pytest.raises(InputError):
        to_onnx(student, LINEAR, tmp_path / "m.onnx")
    assert all(m.training for m in student.modules())


def test_a_compiled_model_is_exported_as_the_model_that_it_was(tmp_path: Path) -> None:
    student = nn.Linear(4, 3)
    to_onnx(torch.compile(student), LINEAR, tmp_path / "m.onnx")  # type: ignore[arg-type]
    torch.testing.assert_close(run_onnx(tmp_path / "m.onnx", LINEAR), student(LINEAR))


# -- what cannot be exported -------------------------------------------------------------------------------------------

REFUSED: list[tuple[nn.Module, str]] = [
    (Bessel(), r"export of Bessel: ONNX has no operator for prims\.bessel_j0, from `return torch\.special\.bessel_j0\(x\)`\. Write"),
    (Eigenvalues(), r"no operator for aten\.linalg_eig, from `return torch\.linalg\.eigvals.*take it out of the model"),
    (Branch(), r"export of Branch: it is no fixed graph at models\.py:\d+, `if x\[0, 0\] > 0:`.*use torch\.where"),
    (FixedBatch(), r"export of FixedBatch: its forward works for one size of batch only\. Read the size from the input"),
    (Noise(), r"export of Noise: it says something else of a sample by itself.*draw random numbers"),
    (Mixes(), r"export of Mixes: it says something else of a sample by itself.*mix the samples"),
    (nn.Linear(3, 3), r"Linear does not run on input float32 \[5, 4\]: mat1 and mat2"),
    (nn.Flatten(0), r"export: Flatten gives \[20\] for 5 samples; the first axis must be theirs"),
    (Gives(lambda y: y.sum()), r"export: Gives gives \[\] for 5 samples"),
    (Gives(lambda y: (y, y)), r"output is a tuple of 2; allowed: a tensor, a mapping or object with 'logits'"),
    (Gives(lambda y: {"a": y, "b": y}), r"output is a dict of a, b; allowed"),
    (Gives(lambda y: None), r"output is a NoneType; allowed"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("student", "message"), REFUSED, ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else ""
)
def test_what_cannot_be_exported_is_refused_with_its_reason_and_leaves_nothing_behind(
    student: nn.Module, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        to_onnx(student, LINEAR, tmp_path / "new" / "deep" / "m.onnx")
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (LINEAR[:0], "hold no sample; give at least one"),
        (torch.tensor(1.0), r"equally many samples along their first axis, but have \{'input': None\}"),
        ({"ids": text(3)["ids"], "mask": text(4)["mask"]}, r"have \{'ids': 3, 'mask': 4\}"),
        ({}, "need equally many samples"),
    ],
)
def test_inputs_that_are_no_batch_are_refused(inputs: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        to_onnx(nn.Linear(4, 3), inputs, tmp_path / "m.onnx")


def test_a_file_that_is_not_the_model_is_not_kept_and_an_earlier_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    student, other = nn.Linear(4, 3), nn.Linear(4, 3)
    to_onnx(student, LINEAR, tmp_path / "m.onnx")
    before = (tmp_path / "m.onnx").read_bytes()
    write = graph.write
    monkeypatch.setattr(graph, "write", lambda _, inputs, file: write(other, inputs, file))
    with pytest.raises(
        InputError, match=r"export of Linear: what was written is not the model and is not kept: outputs differ by"
    ):
        to_onnx(student, LINEAR, tmp_path / "m.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == before
    monkeypatch.undo()
    to_onnx(other, LINEAR, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() != before


@pytest.mark.parametrize("place", [(os, "fsync"), (os, "replace"), (graph, "write")], ids=lambda p: p[1])
def test_a_disk_that_is_full_leaves_the_earlier_file(
    place: tuple[Any, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.onnx").write_text("earlier")

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*place, full)
    with pytest.raises(MachineError, match=r"m\.onnx: cannot be written: .*No space left on device.*intact") as caught:
        to_onnx(nn.Linear(4, 3), LINEAR, tmp_path / "m.onnx")
    assert caught.value.exit_code == 4
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_text() == "earlier"


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_package_that_is_missing_is_named_with_its_extra(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    if missing == "onnxruntime":
        monkeypatch.setattr(graph, "write", lambda _, inputs, file: file.touch())
    with pytest.raises(MissingExtra, match=r"pip install 'understudy\[onnx\]'"):
        to_onnx(nn.Linear(4, 3), LINEAR, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


# -- silence -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("student", [nn.Linear(4, 3), Branch(), Bessel()], ids=["succeeds", "no graph", "no operator"])
def test_an_export_says_nothing(
    student: nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings(record=True) as warned, contextlib.suppress(InputError):
        warnings.simplefilter("always")
        to_onnx(student, LINEAR, tmp_path / "m.onnx")
    assert warned == []
    assert capfd.readouterr() == ("", "")
    assert [r for r in caplog.records if r.name != "torch.__trace"] == []  # which goes to a file, if to anywhere
    assert logging.root.manager.disable == 0


def test_control_the_exporter_by_itself_is_not_silent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "quiet", contextlib.nullcontext)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        to_onnx(nn.Linear(4, 3), LINEAR, tmp_path / "m.onnx")
    assert warned or any(capfd.readouterr())


# -- checking ----------------------------------------------------------------------------------------------------------


def test_a_good_file_passes_and_the_figures_are_told(file: Path, images: Tensor) -> None:
    found = check_onnx(digits_model(), file, images)
    assert found["samples"] == 300
    assert found["agreement"] == 1
    assert 0 < found["max_error"] < 1e-5


def weights(file: Path) -> list[str]:
    return [i.name for i in onnx.load(file).graph.initializer if numpy_helper.to_array(i).dtype == "float32"]


def test_a_change_in_any_weight_of_the_file_is_found(file: Path, images: Tensor, tmp_path: Path) -> None:
    assert len(weights(file)) >= 5
    for at, name in itertools.product(range(2), weights(file)):
        broken = onnx.load(file)
        tensor = next(i for i in broken.graph.initializer if i.name == name)
        array = numpy_helper.to_array(tensor).copy()
        array.flat[at] += 0.5
        tensor.CopyFrom(numpy_helper.from_array(array, name))
        onnx.save(broken, tmp_path / "broken.onnx")
        with pytest.raises(
            CorruptError, match=r"broken\.onnx: is not this model: outputs differ by up to .*damaged"
        ) as caught:
            check_onnx(digits_model(), tmp_path / "broken.onnx", images)
        assert caught.value.exit_code == 3


def test_control_the_same_rewriting_without_a_change_passes(file: Path, images: Tensor, tmp_path: Path) -> None:
    onnx.save(onnx.load(file), tmp_path / "copy.onnx")
    check_onnx(digits_model(), tmp_path / "copy.onnx", images)


def test_a_file_of_another_shape_or_a_torn_or_missing_one_is_found(file: Path, images: Tensor, tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match=r"outputs of 300 samples have the shape \[300, 10\] instead of \[300, 7\]"):
        check_onnx(digits_model(classes=7), file, images)
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(CorruptError, match=r"torn\.onnx: is not an ONNX file that onnxruntime can run"):
        check_onnx(digits_model(), torn, images)
    with pytest.raises(InputError, match=r"nowhere\.onnx: there is no such file"):
        run_onnx(tmp_path / "nowhere.onnx", images)
    with pytest.raises(
        InputError, match=r"does not run on input float64 \[300, 1, 8, 8\].*expected: \(tensor\(float\)\)"
    ):
        run_onnx(file, images.double())


def test_a_nan_never_passes_and_a_masked_class_does() -> None:
    expected = torch.tensor([[1.0, -torch.inf], [2.0, 3.0]])
    assert comparing.difference(expected.clone(), expected, 1e-4) == ""
    for wrong in (torch.nan, torch.inf, 0.0):
        found = expected.clone()
        found[0, 1] = wrong
        assert "outputs differ" in comparing.difference(found, expected, 1e-4)
    with_nan = torch.tensor([[torch.nan, 1.0]])
    assert "outputs differ" in comparing.difference(with_nan.clone(), with_nan, 1e-4)


def test_the_error_is_relative_to_the_samples_own_largest_output_above_one() -> None:
    expected = torch.tensor([[100.0, 1.0], [0.5, 0.1]])
    found = torch.tensor([[100.0, 2.0], [0.5, 0.3]])
    figures = comparing.figures(found, expected, 1e-4)
    assert figures["max_error"] == pytest.approx(max(1 / 100, 0.2 / 1))


def test_the_agreement_is_counted_by_sample() -> None:
    expected = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    found = expected.clone()
    found[1] = torch.tensor([1.0, 2.0])
    assert comparing.figures(found, expected, 1.0)["agreement"] == 3 / 4
    single = torch.tensor([[1.0], [2.0], [3.0]])
    assert comparing.figures(single + torch.tensor([[0.0], [0.01], [0.0]]), single, 1e-3)["agreement"] == 2 / 3
    assert comparing.figures(single[:, 0], single[:, 0], 1e-3) == {"samples": 3, "max_error": 0.0, "agreement": 1.0}


# -- other people's models ---------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_model_of_transformers_is_exported(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, num_labels=4
    )
    torch.manual_seed(0)
    student = transformers.BertForSequenceClassification(config)
    samples = {"input_ids": text(30)["ids"], "attention_mask": text(30)["mask"].long()}
    found = to_onnx(student, samples, tmp_path / "bert.onnx")
    assert found["agreement"] == 1
    assert check_onnx(student, tmp_path / "bert.onnx", samples)["samples"] == 30
