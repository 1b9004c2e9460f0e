from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from understudy.errors import InputError
from understudy.measure.weight import files_of, holds_int8, model_file, size_compressed_bytes

from .files import written


def test_the_weights_beside_a_file_belong_to_it(tmp_path: Path) -> None:
    file = written(tmp_path / "m.onnx", 1000, external=True)
    assert files_of(file) == [file, tmp_path / "m.onnx.data"]
    (tmp_path / "v.xml").write_text("<net/>")
    assert files_of(tmp_path / "v.xml") == [tmp_path / "v.xml"]
    (tmp_path / "v.bin").write_bytes(bytes(9))
    assert files_of(tmp_path / "v.xml") == [tmp_path / "v.xml", tmp_path / "v.bin"]


def test_what_repeats_compresses(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(5_000_000))
    assert size_compressed_bytes([tmp_path / "a"]) < 10_000


def test_the_file_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one model is looked for in a folder, and there is none"):
        model_file(tmp_path)
    file = written(tmp_path / "m.onnx")
    assert model_file(tmp_path) == model_file(file) == file
    written(tmp_path / "n.onnx")
    with pytest.raises(InputError, match=r"there is m\.onnx, n\.onnx\. Name the file itself"):
        model_file(tmp_path)


def test_int8_is_known_by_the_operators_or_by_the_name(tmp_path: Path) -> None:
    (tmp_path := tmp_path / "plain").mkdir()  # the folder's name counts
    file = written(tmp_path / "m.onnx")
    assert not holds_int8(file)
    file.write_bytes(file.read_bytes().replace(b"MatMul", b"QuantizeLinear"))
    assert holds_int8(file)
    assert holds_int8(written(tmp_path / "student-INT8.onnx"))
    assert not holds_int8(written(tmp_path / "checkpoint8.onnx"))
    (tmp_path / "deploy-int8").mkdir()
    assert holds_int8(written(tmp_path / "deploy-int8" / "m.onnx"))
    for name, operator, is_it in (("a", "aten.mm", False), ("b", "quantized_decomposed.quantize_per_tensor", True)):
        with zipfile.ZipFile(tmp_path / f"{name}.pt2", "w", zipfile.ZIP_DEFLATED) as made:
            made.writestr("archive/models/model.json", f'{{"target": "{operator}"}}' * 100)
        assert holds_int8(tmp_path / f"{name}.pt2") is is_it
