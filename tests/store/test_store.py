import copy
import json
import multiprocessing
import os
import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from understudy.errors import CorruptError, InputError, MachineError, ShapeError
from understudy.store import Field, Reader, Store, manifest, reader, shard
from understudy.store.store import DEBRIS_SECONDS

SAMPLES, DRAWS, ROWS = 23, 3, 5
FACTS = {"teacher": "weights abc", "data": "digits 1"}
FIELDS = {"": Field((6,), "fp32", (1.0, 4.0)), "layer3": Field((2, 3, 3), "fp16")}


def outputs(ids: Tensor, draw: int) -> dict[str, Tensor]:
    """Every number of it says whose it is."""
    key = (ids + 1000 * draw).float()
    return {
        "": key[:, None] + torch.arange(6) / 8,
        "layer3": (key[:, None] + torch.arange(18) / 4).remainder(64).reshape(-1, 2, 3, 3),
    }


def made(folder: Path, **given: Any) -> Store:
    settings = {"facts": FACTS, "samples": SAMPLES, "draws": DRAWS, "fields": FIELDS, "rows": ROWS, **given}
    store = Store.create(folder, **settings)
    store.fill(outputs, batch=4)
    return store


def misread(store: Store) -> int:
    """How many rows are not what they were, over all of them in an order by chance."""
    generator = torch.Generator().manual_seed(0)
    wrong = 0
    with store.reader() as rows:
        for draw in range(store.manifest.draws):
            ids = torch.randint(0, store.manifest.samples, (60,), generator=generator)
            read, right = rows.rows(ids, draw), outputs(ids, draw)
            assert list(read) == list(right)
            wrong += sum(int((read[n] != right[n]).flatten(1).any(1).sum()) for n in right)
    return wrong


def test_every_row_comes_back_for_its_sample_and_draw(tmp_path: Path) -> None:
    assert misread(made(tmp_path)) == 0
    assert misread(Store.open(tmp_path)) == 0


@pytest.mark.parametrize("rows", [1, 7, SAMPLES, 1000, None])
def test_it_does_so_for_shards_of_any_size(rows: int | None, tmp_path: Path) -> None:
    assert misread(made(tmp_path, rows=rows)) == 0


# -- controls: what the test of alignment must see ---------------------------------------------------------------------


def off_by_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Reader._gathered
    monkeypatch.setattr(
        Reader, "_gathered", lambda self, ids, draw: right(self, (ids + 1) % self.manifest.samples, draw)
    )


def off_by_one_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Reader._gathered

    monkeypatch.setattr(Reader, "_gathered", lambda self, ids, draw: right(self, ids, (draw + 1) % DRAWS))


def not_put_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Reader._gathered
    monkeypatch.setattr(Reader, "_gathered", lambda self, ids, draw: right(self, np.sort(ids), draw))


def one_shard_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Reader._map
    monkeypatch.setattr(Reader, "_map", lambda self, number: right(self, number - number % self.manifest.shards_a_draw))


@pytest.mark.parametrize("mutant", [off_by_one_row, off_by_one_draw, not_put_back_in_order, one_shard_for_all])
def test_control_a_reader_that_reads_other_rows_is_seen(
    mutant: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = made(tmp_path, rows=SAMPLES // 2 + 1)  # shards of one length are rare, so that no index is out of range
    mutant(monkeypatch)
    assert misread(store) > 50


# -- reading -----------------------------------------------------------------------------------------------------------


def test_a_batch_may_be_empty_hold_a_sample_twice_and_come_as_any_integers(tmp_path: Path) -> None:
    rows = made(tmp_path).reader()
    assert {n: tuple(t.shape) for n, t in rows.rows(torch.tensor([], dtype=torch.int64)).items()} == {
        "": (0, 6),
        "layer3": (0, 2, 3, 3),
    }
    ids = torch.tensor([22, 0, 22, 5], dtype=torch.int32)
    assert torch.equal(rows.rows(ids, torch.tensor(2))[""], outputs(ids, 2)[""])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ids", "draw", "told"),
    [
        ([0, SAMPLES], 0, "sample 23 is not among the 23"),
        ([-1], 0, "sample -1 is not among"),
        ([0], DRAWS, "draw 3 is not stored; there are 3"),
        ([0], -1, "draw -1 is not stored"),
    ],
)
def test_a_row_that_is_not_there_is_refused(ids: list[int], draw: int, told: str, tmp_path: Path) -> None:
    rows = made(tmp_path).reader()
    with pytest.raises(InputError, match=told):
        rows.rows(torch.tensor(ids), draw)


def test_only_the_fields_that_are_asked_for_are_read(tmp_path: Path) -> None:
    store = made(tmp_path)
    assert list(store.reader(["layer3"]).rows(torch.tensor([1]))) == ["layer3"]
    with pytest.raises(InputError, match=r"'layer4' is not stored\. Did you mean "):
        store.reader(["layer4"])


def test_top_k_is_read_at_the_readers_temperature(tmp_path: Path) -> None:
    fields = {"": Field((6,), "topk:2", (1.0, 4.0))}
    store = Store.create(tmp_path, FACTS, 9, 1, fields, tolerance=10)
    store.fill(lambda ids, draw: {"": outputs(ids, draw)[""]})
    ids = torch.arange(9)
    right = torch.softmax(outputs(ids, 0)[""] / 4, 1)
    read = torch.softmax(store.reader(temperature=4).rows(ids)[""] / 4, 1)
    assert torch.allclose(read[:, -2:], right[:, -2:], atol=1e-4)
    assert torch.allclose(read[:, :-2].sum(1), right[:, :-2].sum(1), atol=1e-4)
    with pytest.raises(InputError, match="cannot be read without a temperature"):
        store.reader()


class Rows(Dataset[Tensor]):
    def __init__(self, rows: Reader) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, i: int) -> Tensor:
        return self.rows.rows(torch.tensor([i]), 1)[""][0]


def test_workers_and_copies_read_the_same(tmp_path: Path) -> None:
    rows = made(tmp_path).reader()
    right = outputs(torch.arange(SAMPLES), 1)[""]
    for held in (rows, copy.deepcopy(rows), pickle.loads(pickle.dumps(rows)), copy.copy(rows)):
        assert torch.equal(held.rows(torch.arange(SAMPLES), 1)[""], right)
    rows.rows(torch.arange(SAMPLES), 1)  # what is mapped before the fork is read after it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork in a process that has threads
        loaded = DataLoader(
            Rows(rows), batch_size=5, num_workers=1, multiprocessing_context=multiprocessing.get_context("fork"),
            timeout=60,
        )  # fmt: skip
        assert torch.equal(torch.cat(list(loaded)), right)


def open_maps(folder: Path) -> int:
    return sum(str(folder) in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no list of maps here")
def test_a_file_is_mapped_once_when_it_is_read_and_let_go_of(tmp_path: Path) -> None:
    rows = made(tmp_path, draws=2, rows=12).reader()
    assert open_maps(tmp_path) == 0
    for _ in range(3):
        rows.rows(torch.arange(SAMPLES), 1)
        assert open_maps(tmp_path) == 2
    kept = rows.rows(torch.arange(SAMPLES), 1)
    rows.close()
    assert open_maps(tmp_path) == 0
    assert torch.equal(kept[""], outputs(torch.arange(SAMPLES), 1)[""])


def test_no_more_files_are_held_open_than_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = made(tmp_path, rows=1)
    monkeypatch.setattr(reader, "MOST_MAPS", 4)
    assert misread(store) == 0
    rows = store.reader()
    rows.rows(torch.arange(SAMPLES), 1)
    assert len(rows._maps) == 4


def test_nothing_but_the_rows_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that loaded the file, or called pickle, would be refused here."""
    store = made(tmp_path)
    rows = store.reader()

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("called")

    monkeypatch.setattr(Path, "read_bytes", never)
    monkeypatch.setattr(pickle, "loads", never)
    monkeypatch.setattr(pickle, "load", never)
    monkeypatch.setattr(pickle, "Unpickler", never)
    rows.rows(torch.arange(SAMPLES), 0)
    for source in Path(shard.__file__).parent.glob("*.py"):
        assert "pickle" not in source.read_text()
        assert "torch.load" not in source.read_text()


def test_a_shard_is_a_safetensors_file_for_anyone(tmp_path: Path) -> None:
    made(tmp_path)
    with safe_open(tmp_path / "shards" / "00001.safetensors", "pt") as file:  # type: ignore[no-untyped-call]
        assert set(file.keys()) == {"/values", "layer3/values"}
        assert torch.equal(file.get_tensor("/values")[:, 0], outputs(torch.arange(5, 10), 0)[""])


# -- filling -----------------------------------------------------------------------------------------------------------


def test_a_store_that_is_not_complete_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    store = Store.create(tmp_path, FACTS, SAMPLES, DRAWS, FIELDS, rows=ROWS)
    assert store.missing() == list(range(15))
    for number in range(14):
        draw, ids = store.place(number)
        store.write(number, outputs(ids, draw))
    assert store.missing() == [14]
    with pytest.raises(InputError, match=r"is not complete: 3 of 69 rows are missing \(1 of 15 shards\)"):
        store.reader()
    assert store.fill(outputs) == 3
    assert misread(store) == 0


def test_ranks_share_the_shards_whenever_each_looks(tmp_path: Path) -> None:
    store = Store.create(tmp_path, FACTS, SAMPLES, DRAWS, FIELDS, rows=ROWS)
    by_rank = []
    for rank in range(4):  # one after the other: each sees what is left
        by_rank.append(store.missing(rank=rank, ranks=4))
        store.fill(outputs, rank=rank, ranks=4)
    assert sorted(n for numbers in by_rank for n in numbers) == list(range(15))
    assert misread(store) == 0


def test_progress_is_told_up_to_all_rows(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    store = Store.create(tmp_path, FACTS, SAMPLES, 1, FIELDS, rows=10)
    store.fill(outputs, batch=4, progress=lambda done, total: told.append((done, total)))
    assert told == [(n, SAMPLES) for n in (4, 8, 10, 14, 18, 20, 23)]
    assert store.fill(outputs, progress=lambda done, total: told.append((0, 0))) == 0
    assert told[-1] == (23, 23)


def test_a_shard_that_another_process_has_made_meanwhile_is_left(tmp_path: Path) -> None:
    store, other = (Store.create(tmp_path, FACTS, SAMPLES, 1, FIELDS, rows=10) for _ in range(2))
    asked: list[int] = []

    def slow(ids: Tensor, draw: int) -> Mapping[str, Tensor]:
        asked.append(int(ids[0]))
        other.write(1, outputs(torch.arange(10, 20), 0))
        return outputs(ids, draw)

    told: list[int] = []
    assert store.fill(slow, progress=lambda done, total: told.append(done)) == 13
    assert asked == [0, 20]
    assert told == [10, 20, 23]


def test_rows_may_be_given_whole_or_in_pieces(tmp_path: Path) -> None:
    whole, pieces = (Store.create(tmp_path / n, FACTS, SAMPLES, 1, FIELDS, rows=SAMPLES) for n in "ab")
    ids = torch.arange(SAMPLES)
    assert whole.write(0, outputs(ids, 0)) == {"": {"T=1": 0.0, "T=4": 0.0}, "layer3": {"relative": 0.0}}
    pieces.write(0, (outputs(some, 0) for some in ids.split(3)))
    held = [(tmp_path / n / "shards" / "00000.safetensors").read_bytes()[-60 * SAMPLES :] for n in "ab"]
    assert held[0] == held[1]


@pytest.mark.parametrize(
    ("rows", "kind", "told"),
    [
        (lambda o: {"": o[""]}, InputError, "'layer3' was not given; given: the output"),
        (lambda o: {**o, "": o[""][:-1]}, ShapeError, r"different numbers of rows: \[4, 5\]"),
        (lambda o: {n: t[:-1] for n, t in o.items()}, ShapeError, "shard 2 has 5 rows, and 4 were given"),
        (lambda o: [o, o], ShapeError, "shard 2 has 5 rows, and 10 were given"),
        (lambda o: {**o, "layer3": o["layer3"][:, :1]}, ShapeError, r"'layer3': outputs \[5, 1, 3, 3\] are not \[N, 2"),
        (lambda o: {**o, "": o[""].index_fill(0, torch.tensor(3), float("nan"))}, InputError, "sample 13 in draw 0 holds"),
        (lambda o: {**o, "layer3": o["layer3"] + 1e5}, InputError, "'layer3': sample 10 in draw 0 holds 1e.05, which fp16"),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_are_refused_and_nothing_is_written(
    rows: Callable[[dict[str, Tensor]], Any], kind: type[Exception], told: str, tmp_path: Path
) -> None:
    store = Store.create(tmp_path, FACTS, SAMPLES, DRAWS, FIELDS, rows=ROWS)
    with pytest.raises(kind, match=told):
        store.write(2, rows(outputs(torch.arange(10, 15), 0)))
    assert store.missing() == list(range(15))
    assert list((tmp_path / "shards").iterdir()) == []


def noisy(ids: Tensor, draw: int) -> dict[str, Tensor]:
    return {"": torch.randn(len(ids), 50, generator=torch.Generator().manual_seed(int(ids[0]))) * 2}


def test_an_encoding_above_the_tolerance_is_refused_with_what_would_do(tmp_path: Path) -> None:
    fields = {"": Field((50,), "topk:5", (1.0, 4.0))}
    store = Store.create(tmp_path, FACTS, 3000, 1, fields, rows=3000)
    asked: list[int] = []

    def watched(ids: Tensor, draw: int) -> dict[str, Tensor]:
        asked.append(len(ids))
        return noisy(ids, draw)

    with pytest.raises(InputError, match=r"topk:5 of the output is off by \d\d\.\d\d% of the student's gradient at T=4; "
                       r"at most 1\.00% is allowed\. uint8 is off by 0\.\d\d% and takes 58 bytes a sample instead of 32"):  # fmt: skip
        store.fill(watched, batch=128)
    assert sum(asked) == 256  # and not a whole shard of them
    assert store.missing() == [0]
    Store.create(tmp_path, FACTS, 3000, 1, fields, tolerance=1.0).fill(noisy)
    assert Store.open(tmp_path).info()["fields"][""]["errors"]["T=4"] > 0.2
    fine = Store.create(tmp_path / "fine", FACTS, 3000, 1, {"": Field((50,), "uint8", (1.0, 4.0))})
    assert fine.fill(noisy) == 3000


def test_a_disk_without_room_is_told_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from understudy.store import store as module

    store = Store.create(tmp_path, FACTS, SAMPLES, DRAWS, FIELDS, rows=ROWS)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Free", (), {"free": 100}))
    with pytest.raises(MachineError, match="the disk is full: 4,500 bytes are needed, 100 are free"):
        store.fill(lambda ids, draw: pytest.fail("asked"))


# -- what it is of -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"facts": {**FACTS, "teacher": "weights xyz"}}, "teacher was 'weights abc' and is now 'weights xyz'"),
        ({"facts": {**FACTS, "augmentation": "crop"}}, "augmentation was None and is now 'crop'"),
        ({"facts": {"teacher": "weights abc"}}, "data was 'digits 1' and is now None"),
        ({"samples": 24}, "samples was 23 and is now 24"),
        ({"fields": {"": Field((7,), "fp32", (1.0, 4.0))}}, r"shape of the output was \[6\] and is now \[7\]"),
        ({"fields": {"": Field((6,), "fp16", (1.0, 4.0))}}, "encoding of the output was fp32 and is now fp16"),
        (
            {"fields": {"": Field((6,), "fp32", (2.0,))}},
            r"temperatures of the output was \[1.0, 4.0\] and is now \[2.0\]",
        ),
        ({"fields": {"": Field((6,), "fp32")}}, r"temperatures of the output was \[1.0, 4.0\] and is now \[\]"),
        ({"fields": {"layer4": Field((6,), "fp32")}}, "field 'layer4' is not in it"),
    ],
)
def test_what_differs_is_named_with_both_values(given: dict[str, Any], told: str, tmp_path: Path) -> None:
    made(tmp_path)
    before = (tmp_path / "store.json").read_bytes()
    settings = {"facts": FACTS, "samples": SAMPLES, "draws": DRAWS + 1, "fields": FIELDS, **given}
    with pytest.raises(InputError, match=told):
        Store.create(tmp_path, **settings)
    assert (tmp_path / "store.json").read_bytes() == before
    if "facts" in given:
        with pytest.raises(InputError, match=told):
            Store.open(tmp_path, given["facts"])


def test_everything_that_differs_is_named_at_once(tmp_path: Path) -> None:
    made(tmp_path)
    with pytest.raises(InputError) as error:
        Store.create(tmp_path, {"teacher": "x", "data": "y"}, 5, 1, {"": Field((6,), "uint8")})
    assert len(str(error.value).splitlines()) == 7


def test_less_than_what_is_held_may_be_wanted(tmp_path: Path) -> None:
    made(tmp_path)
    store = Store.create(tmp_path, FACTS, SAMPLES, 1, {"": Field((6,), "fp32", (4.0,))})
    assert store.missing() == []
    assert store.manifest.draws == DRAWS
    assert set(store.manifest.fields) == set(FIELDS)


def test_more_draws_are_added_to_those_that_are_there(tmp_path: Path) -> None:
    made(tmp_path, draws=1)
    store = Store.create(tmp_path, FACTS, SAMPLES, DRAWS, FIELDS)
    assert store.missing() == list(range(5, 15))
    assert store.fill(outputs) == 2 * SAMPLES
    assert misread(store) == 0


def test_draws_that_another_process_uncounted_are_found_again(tmp_path: Path) -> None:
    made(tmp_path)
    one = Store.open(tmp_path)
    manifest.Manifest(FACTS, SAMPLES, 1, ROWS, FIELDS).write(tmp_path)  # it came last, and wanted fewer
    assert misread(one) == 0
    assert Store.create(tmp_path, FACTS, SAMPLES, DRAWS, FIELDS).missing() == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"samples": 0}, "samples 0: allowed: 1 or more"),
        ({"draws": 0}, "draws 0: allowed"),
        ({"rows": 0}, "rows 0: allowed"),
        ({"fields": {}}, "no fields"),
        ({"facts": {"x": 3}}, "fact 'x' is 3; give it as text"),
    ],
)
def test_what_is_no_store_is_not_begun(given: dict[str, Any], told: str, tmp_path: Path) -> None:
    settings = {"facts": FACTS, "samples": SAMPLES, "draws": DRAWS, "fields": FIELDS, **given}
    with pytest.raises(InputError, match=told):
        Store.create(tmp_path / "s", **settings)
    assert not (tmp_path / "s").exists()


def test_a_folder_that_is_no_store_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no store: it has no store\.json"):
        Store.open(tmp_path)


def test_debris_of_the_dead_is_swept_and_work_of_the_living_is_not(tmp_path: Path) -> None:
    store = made(tmp_path)
    fresh, old, other = (tmp_path / "shards" / n for n in (f".0.{'0' * 32}", f".1.{'1' * 32}", ".gitkeep"))
    for path in (fresh, old, other):
        path.write_text("half")
    for path in (old, other):
        os.utime(path, (0, path.stat().st_mtime - DEBRIS_SECONDS - 10))
    Store.create(tmp_path, FACTS, SAMPLES, DRAWS, FIELDS)
    assert [p.exists() for p in (fresh, old, other)] == [True, False, True]
    assert misread(store) == 0


def test_info_says_what_it_is_of_how_far_it_is_and_what_it_costs(tmp_path: Path) -> None:
    store = made(tmp_path)
    (tmp_path / "shards" / "00003.safetensors").unlink()
    path = tmp_path / "shards" / "00004.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    told = store.info()
    assert json.loads(json.dumps(told)) == told
    assert told.pop("damaged") == [f"{path}: has {path.stat().st_size:,} bytes instead of {path.stat().st_size + 1:,}: "
                                   "it was cut short or appended to."]  # fmt: skip
    assert told == {
        "folder": str(tmp_path), "facts": FACTS, "samples": SAMPLES, "draws": DRAWS,
        "fields": {
            "": {"shape": [6], "encoding": "fp32", "temperatures": [1.0, 4.0], "sample_bytes": 24,
                 "errors": {"T=1": 0.0, "T=4": 0.0}},
            "layer3": {"shape": [2, 3, 3], "encoding": "fp16", "temperatures": [], "sample_bytes": 36,
                       "errors": {"relative": 0.0}},
        },
        "sample_bytes": 60, "total_bytes": 60 * SAMPLES * DRAWS,
        "disk_bytes": sum(f.stat().st_size for f in (tmp_path / "shards").iterdir()),
        "shards": 15, "shard_rows": ROWS, "shards_done": 13, "rows_missing": 8,
    }  # fmt: skip


# -- verify ------------------------------------------------------------------------------------------------------------


def test_rows_that_are_made_anew_agree(tmp_path: Path) -> None:
    store = made(tmp_path)
    assert store.verify() == {"shards": 15, "rows": 0, "errors": {}}
    nothing = {"": {"T=1": 0.0, "T=4": 0.0}, "layer3": {"relative": 0.0}}
    assert store.verify(outputs, rows=20, batch=3) == {"shards": 15, "rows": 20, "errors": nothing}
    assert store.verify(outputs, rows=1000)["rows"] == SAMPLES * DRAWS


def one_other(ids: Tensor, draw: int) -> dict[str, Tensor]:
    found = outputs(ids, draw)
    if draw == 1:
        found["layer3"][ids == 7] *= -1
    return found


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (lambda ids, draw: outputs((ids + 1) % SAMPLES, draw), "'layer3' is not what is made now"),
        (lambda ids, draw: outputs(ids, (draw + 1) % DRAWS), "'layer3' is not what is made now"),
        (lambda ids, draw: {n: t * 1.1 for n, t in outputs(ids, draw).items()}, "the output is not what is made now"),
        (one_other, r"'layer3' is not what .* furthest is sample 7 in draw 1, by 200\.00%"),
    ],
)
def test_rows_that_are_other_ones_now_are_told(changed: Any, told: str, tmp_path: Path) -> None:
    store = made(tmp_path)
    with pytest.raises(InputError, match=told):
        store.verify(changed, rows=1000)


def test_top_k_above_the_tolerance_agrees_with_itself(tmp_path: Path) -> None:
    fields = {"": Field((50,), "topk:5", (1.0, 4.0))}
    values = torch.randn(600, 50, generator=torch.Generator().manual_seed(0)) * 2
    store = Store.create(tmp_path, FACTS, 600, 1, fields, tolerance=1.0)
    store.fill(lambda ids, draw: {"": values[ids]})
    store = Store.open(tmp_path)
    found = store.verify(lambda ids, draw: {"": values[ids]}, rows=600)["errors"][""]
    assert found == pytest.approx(store.info()["fields"][""]["errors"], rel=1e-5)
    with pytest.raises(InputError, match="is not what is made now"):
        store.verify(lambda ids, draw: {"": values[(ids + 1) % 600]}, rows=600)


def test_verify_needs_all_rows(tmp_path: Path) -> None:
    store = Store.create(tmp_path, FACTS, SAMPLES, DRAWS, FIELDS, rows=ROWS)
    with pytest.raises(InputError, match="69 of 69 rows are missing"):
        store.verify()
    store.fill(outputs)
    path = tmp_path / "shards" / "00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(CorruptError, match=r"00002\.safetensors: is damaged in 1 of 2 tensors: layer3/values"):
        store.verify()


def test_rows_of_a_method_that_reads_less_are_compared_and_those_of_one_that_reads_more_are_refused(
    tmp_path: Path,
) -> None:
    store = made(tmp_path)
    assert store.verify(lambda ids, draw: {"": outputs(ids, draw)[""]})["rows"] == 69
    with pytest.raises(InputError, match="the output is not what is made now"):
        store.verify(lambda ids, draw: {"": 2 * outputs(ids, draw)[""]})
    with pytest.raises(InputError, match="'layer9' is not in it"):
        store.verify(lambda ids, draw: {"layer9": torch.zeros(len(ids), 3)})


def test_a_damaged_manifest_says_what_to_do(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "store.json").write_text("{}")
    with pytest.raises(CorruptError, match=r"store\.json: is damaged .* Delete it to have the store made anew"):
        Store.open(tmp_path)
