import json
from pathlib import Path

import pytest

from .calls import call

TAUGHT = ("--set", "teacher.epochs=0")


@pytest.fixture(scope="module")
def weights(small: tuple[Path, object]) -> tuple[str, ...]:
    return (*TAUGHT, "--set", f"teacher.weights={small[0] / 'teacher.safetensors'}")


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory, weights: tuple[str, ...]) -> Path:
    folder = tmp_path_factory.mktemp("store") / "said"
    told = call("store", "build", "digits", folder, *weights)
    assert told.code == 0, told.err
    assert "1,000 samples, 1 draw, 1 shard, complete" in told.out
    return folder


def test_a_store_tells_what_it_is_of(said: Path) -> None:
    told = json.loads(call("store", "info", said, "--json").out)
    assert (told["samples"], told["draws"], told["rows_missing"]) == (1000, 1, 0)
    assert told["fields"][""]["shape"] == [10]
    assert told["fields"][""]["temperatures"] == [2]
    assert "augmentation" not in told["facts"]
    shown = call("store", "info", said).out
    assert "40 bytes a sample" in shown
    assert "the output: 10, fp32" in shown


def test_what_is_whole_is_so_said_and_what_is_not_is_found(said: Path, weights: tuple[str, ...]) -> None:
    told = call("store", "verify", said, "--recipe", "digits", *weights, "--rows", 32)
    assert told.code == 0, told.err
    assert "32 rows asked anew: off by 0.00% of" in told.out
    file = next(said.glob("shards/*.safetensors"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        told = call("store", "verify", said)
        assert told.code == 3
        assert file.name in told.err
    finally:
        file.write_bytes(whole)


def test_another_teacher_is_told_by_name(said: Path, small: tuple[Path, object]) -> None:
    other = ("--set", f"teacher.weights={small[0] / 'teacher.safetensors'}", "--set", "data.labelled=100")
    told = call("store", "verify", said, "--recipe", "digits", *TAUGHT, *other)
    assert told.code == 2
    assert "data was" in told.err


def test_a_run_reads_it(said: Path, weights: tuple[str, ...], tmp_path: Path) -> None:
    options = ("--set", "epochs=2", "--set", "seeds=1", "--set", "report=false", "--set", "export=null")
    told = call("run", "digits", *weights, *options, "--set", f"teacher.store={said}", "--out", tmp_path / "run")
    assert told.code == 0, told.err
    assert not (tmp_path / "run" / "store").exists()


def test_a_teacher_that_is_yet_to_be_trained_has_nothing_to_say(tmp_path: Path) -> None:
    told = call("store", "build", "digits", tmp_path / "said")
    assert told.code == 2
    assert "trains its teacher first" in told.err
    assert not (tmp_path / "said").exists()


def test_an_encoding_that_changes_what_is_learnt_is_refused(weights: tuple[str, ...], tmp_path: Path) -> None:
    told = call("store", "build", "digits", tmp_path / "said", *weights, "--encoding", "topk:2")
    assert told.code == 2
    assert "topk:2" in told.err
