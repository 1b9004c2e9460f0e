"""What is damaged is found and named before it is used, and the next build makes it anew."""

import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from understudy.errors import CorruptError, InputError
from understudy.store import Field, Store, shard, store

FACTS = {"teacher": "weights abc", "data": "é 1"}
FIELDS = {"": Field((4,), "uint8", (1.0,)), "layer3": Field((3,), "topk:1", (2.0,))}
SAMPLES, ROWS = 12, 4


def outputs(ids: Tensor, draw: int) -> dict[str, Tensor]:
    key = (ids + 100 * draw).float()
    return {"": key[:, None] * 0.01 + torch.arange(4), "layer3": key[:, None].sin() + torch.arange(3)}


def begun(folder: Path) -> Store:
    return Store.create(folder, FACTS, SAMPLES, 1, FIELDS, tolerance=10, rows=ROWS)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    begun(folder).fill(outputs)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def built_again(folder: Path) -> list[str]:
    """Build it again, and tell what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        begun(folder).fill(outputs)
    return [str(w.message) for w in caught]


def flips(data: bytes, every: int) -> Iterator[bytes]:
    """The file with one bit of a byte turned, for one byte in so many."""
    chance = random.Random(0)
    for at in range(chance.randrange(every), len(data), every):
        yield data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]


def test_every_flip_of_a_bit_is_found_and_named(whole: Path) -> None:
    found = tried = 0
    for path in (whole / "store.json", whole / "shards" / "00001.safetensors"):
        good = path.read_bytes()
        for bad in flips(good, 1 if path.suffix == ".json" else 2):
            path.write_bytes(bad)
            tried += 1
            try:
                Store.open(whole).verify()
            except CorruptError as error:
                found += str(path) in str(error)
        path.write_bytes(good)
    assert tried > 800
    assert found == tried
    Store.open(whole).verify()


def unseen_flips_of_a_header(folder: Path) -> tuple[int, int]:
    """How many are not found and named at opening, and how many there were."""
    path = folder / "shards" / "00001.safetensors"
    good = path.read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    named = tried = 0
    for bad in flips(good[:header], 3):
        path.write_bytes(bad + good[header:])
        tried += 1
        try:
            Store.open(folder).reader()
        except CorruptError as error:
            named += "00001.safetensors" in str(error) and "Build the store again" in str(error)
    path.write_bytes(good)
    return tried - named, tried


def test_a_flip_in_a_header_is_found_at_opening(whole: Path) -> None:
    unseen, tried = unseen_flips_of_a_header(whole)
    assert unseen == 0
    assert tried > 300


def test_control_without_the_headers_seal_flips_go_unseen(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Any(str):
        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = str.__hash__

    monkeypatch.setattr(shard, "_seal", Any)
    assert unseen_flips_of_a_header(whole)[0] > 100


def test_control_without_digests_flips_go_unseen(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "check_digests", lambda held: None)
    with pytest.raises(AssertionError):
        test_every_flip_of_a_bit_is_found_and_named(whole)


def test_a_file_cut_short_anywhere_is_found_at_opening(whole: Path) -> None:
    path = whole / "shards" / "00002.safetensors"
    good = path.read_bytes()
    for length in (0, 1, 7, 8, 100, len(good) // 2, len(good) - 1, len(good) + 1):
        path.write_bytes((good + b"x")[:length])
        with pytest.raises(CorruptError, match=r"00002\.safetensors"):
            Store.open(whole).reader()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flipped(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-3] + bytes([data[-3] ^ 16]) + data[-2:])


def zeroed(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-20] + bytes(20))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def swapped(path: Path) -> None:
    shutil.copy(path.with_name("00000.safetensors"), path)


def of_another_store(path: Path) -> None:
    other = Store.create(path.parents[2] / "other", {"teacher": "x"}, SAMPLES, 1, FIELDS, tolerance=10, rows=ROWS)
    other.fill(outputs)
    shutil.copy(other.folder / "shards" / path.name, path)


def huge_header(path: Path) -> None:
    path.write_bytes((2**40).to_bytes(8, "little") + path.read_bytes()[8:])


def deep_header(path: Path) -> None:
    text = b"[" * 50_000
    path.write_bytes(len(text).to_bytes(8, "little") + text)


@pytest.mark.parametrize("damage", [cut, flipped, zeroed, emptied, swapped, of_another_store, huge_header, deep_header])
def test_a_damaged_shard_is_named_and_made_anew_and_no_other(damage: Callable[[Path], None], whole: Path) -> None:
    before = content(whole)
    path = whole / "shards" / "00001.safetensors"
    damage(path)
    assert content(whole) != before
    with pytest.raises(CorruptError, match=r"00001\.safetensors"):
        Store.open(whole).verify()
    asked: list[int] = []
    with pytest.warns(UserWarning, match=r"00001\.safetensors.*made anew"):
        begun(whole).fill(lambda ids, draw: asked.extend(ids.tolist()) or outputs(ids, draw))  # type: ignore[func-returns-value]
    assert asked == [4, 5, 6, 7]
    assert content(whole) == before


def test_a_damaged_manifest_is_written_anew_and_nothing_is_lost(whole: Path) -> None:
    before = content(whole)
    path = whole / "store.json"
    for bad in (b"", b"{}", b"[1]", b"\xff", path.read_bytes().replace(b"abc", b"abd")):
        path.write_bytes(bad)
        with pytest.raises(CorruptError, match=r"store\.json: is damaged"):
            Store.open(whole)
        (told,) = built_again(whole)
        assert "store.json: is damaged" in told
        assert content(whole) == before


def test_a_damaged_manifest_does_not_give_the_shards_to_another_teacher(whole: Path) -> None:
    (whole / "store.json").write_text("{}")
    with pytest.warns(UserWarning, match=r"store\.json"):
        other = Store.create(whole, {**FACTS, "teacher": "x"}, SAMPLES, 1, FIELDS, rows=ROWS)
    with pytest.warns(UserWarning, match="belongs to another store"):
        assert other.missing() == [0, 1, 2]


def test_a_later_format_is_refused_by_name(whole: Path) -> None:
    path = whole / "store.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(CorruptError, match="has format 2; this version reads 1"):
        Store.open(whole)


# -- what a kill leaves at each step of writing --------------------------------------------------------------------------


def states(good: dict[str, bytes]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The files as they are after a kill, or a power cut, at each step of making a store."""
    manifest, *shards = sorted(good, reverse=True)
    temporary = "0123456789abcdef" * 2
    yield "nothing", {}
    for length in (0, 10, len(good[manifest])):
        yield f"manifest half written ({length})", {f".{manifest}.{temporary}": good[manifest][:length]}
    yield "manifest renamed", {manifest: good[manifest]}
    done = {manifest: good[manifest]}
    for name in sorted(shards):
        folder, _, file = name.partition("/")
        for length in (0, 8, 300, len(good[name])):
            yield f"{file} half written ({length})", {**done, f"{folder}/.{file}.{temporary}": good[name][:length]}
        for length in (0, 8, 300, len(good[name]) - 1):
            yield f"{file} renamed and not on the disk ({length})", {**done, name: good[name][:length]}
        done[name] = good[name]
        yield f"{file} renamed", dict(done)
    for name in shards:
        yield f"without {name}", {k: v for k, v in good.items() if k != name}


def test_a_store_is_gone_on_with_from_any_state(whole: Path, tmp_path: Path) -> None:
    good = content(whole)
    tried = 0
    for name, files in states(good):
        folder = tmp_path / "again"
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        if set(files) != set(good) or files != good:
            with pytest.raises((InputError, CorruptError)):
                Store.open(folder).reader()
        warned = built_again(folder)
        assert len(warned) == ("not on the disk" in name), name
        assert {k: v for k, v in content(folder).items() if "/." not in k and not k.startswith(".")} == good, name
        Store.open(folder).verify(outputs)
        shutil.rmtree(folder)
        tried += 1
    assert tried == 35
