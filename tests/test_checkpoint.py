import ast
import errno
import functools
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import understudy
from understudy import checkpoint
from understudy.checkpoint import DTYPES, Checkpoints, freeze, read, thaw
from understudy.errors import CorruptError, InputError, MachineError
from understudy.writing import load_tensors, save_tensors, write_text

torch.set_num_threads(1)

FILES = ("state.safetensors", "state.json", "manifest.json")


def through_files(tree: Any, folder: Path) -> Any:
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, *freeze(tree))
    loaded = checkpoints.load()
    assert loaded is not None
    return thaw(*loaded)


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, in value and in type."""
    if isinstance(a, torch.Tensor):
        bits = lambda t: t.contiguous().reshape(-1).view(torch.uint8)  # noqa: E731
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))
    if isinstance(a, dict):
        return list(a) == list(b) and [type(k) for k in a] == [type(k) for k in b] and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b)))


# -- freeze and thaw ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", sorted(DTYPES, key=str), ids=str)
def test_a_tensor_of_any_dtype_comes_back_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    data = torch.arange(48, dtype=torch.uint8).view(torch.bool if dtype == torch.bool else torch.uint8)
    tensor = (data > 20) if dtype == torch.bool else data.view(dtype)
    tree = {"flat": tensor, "scalar": tensor[0].clone(), "empty": tensor[:0].clone(), "grid": tensor.reshape(2, -1)}
    assert same(through_files(tree, tmp_path), tree)


TREES = {
    "numbers": {"a": 1, "b": -(2**62), "c": 0.1 + 0.2, "d": 5e-324, "e": True, "f": None, "g": 'ü\n\0"\u2028'},
    "not finite": {"nan": math.nan, "inf": math.inf, "minus": -math.inf, "zero": -0.0},
    "keys": {1: "int", "1": "str", 2.5: "float", (1, "a"): "tuple", None: "none", False: "bool", "": "empty"},
    "nested": {"a": [1, (2, [3, {"b": ({},)}]), []], "t": ()},
    "looks like a frozen one": {"tensor": "x", "map": [1], "list": {"float": "nan"}},
    "tensors in lists": [torch.arange(3), (torch.ones(2), {"k": torch.zeros(1)})],
    "tensors whose paths meet": {"a/b": torch.ones(2), "a": {"b": torch.zeros(2), "b'": torch.ones(1) * 7}},
    "tensors under 1 and '1'": {1: torch.ones(2), "1": torch.zeros(2)},
}


@pytest.mark.parametrize("name", TREES)
def test_a_tree_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    back = through_files(TREES[name], tmp_path)
    assert same(back, TREES[name]), back


def test_the_comparison_of_trees_sees_a_difference() -> None:
    assert not same({"a": 1}, {"a": True})
    assert not same([1.0], [1])
    assert not same({"a": torch.zeros(2)}, {"a": -torch.zeros(2)})
    assert not same({1: 0}, {"1": 0})
    assert not same((1,), [1])


def test_tied_weights_are_stored_once_and_come_back_in_both_places() -> None:
    embedding, head = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)
    head.weight = embedding.weight
    tree, tensors = freeze({"embedding": embedding.state_dict(), "head": head.state_dict()})
    assert list(tensors) == ["embedding/weight"]
    back = thaw(tree, tensors)
    assert torch.equal(back["head"]["weight"], back["embedding"]["weight"])


def test_views_of_one_storage_are_stored_as_what_they_show(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    tree = {"whole": whole, "row": whole[1], "column": whole[:, 2], "turned": whole.T, "wide": whole[0, 0].expand(5)}
    assert same(through_files(tree, tmp_path), {k: v.contiguous() for k, v in tree.items()})


def test_freezing_cuts_the_graph() -> None:
    _, tensors = freeze({"w": nn.Parameter(torch.ones(2)) * 2})
    assert not tensors["w"].requires_grad


@pytest.mark.parametrize(
    ("leaf", "kind"),
    [
        (lambda: 0, "function"),
        ({1, 2}, "set"),
        (b"x", "bytes"),
        (1j, "complex"),
        (Path(), "PosixPath"),
        (torch.float32, "dtype"),
        (torch.eye(2).to_sparse(), "sparse"),
        (torch.zeros(2, dtype=torch.complex128), "complex128"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_cannot_be_saved_is_refused_with_its_path(leaf: Any, kind: str) -> None:
    with pytest.raises(InputError, match=rf"players/student/3 is a .*{kind}"):
        freeze({"step": 1, "players": {"student": [0, 1, 2, leaf]}})


# -- damage ------------------------------------------------------------------------------------------------------------


def state(step: int) -> dict[str, Any]:
    g = torch.Generator().manual_seed(step)
    return {
        "step": step,
        "model": {f"layer{i}.weight": torch.randn(8, 16, generator=g) for i in range(3)},
        "count": torch.tensor(step),
        "history": [{"step": i, "valid": {"accuracy": i / 7}} for i in range(5)],
    }


def two_checkpoints(folder: Path) -> Checkpoints:
    checkpoints = Checkpoints(folder)
    for step in (10, 20):
        checkpoints.save(step, *freeze(state(step)))
    return checkpoints


def loaded_step(checkpoints: Checkpoints) -> tuple[int | None, list[str]]:
    """Which state a load gives, and what it warns of. The state must be a true one in every bit."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = checkpoints.load()
    if found is None:
        return None, [str(w.message) for w in caught]
    tree = thaw(*found)
    assert same(tree, state(tree["step"])), "a damaged state was used"
    return tree["step"], [str(w.message) for w in caught]


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def tensor_at(path: Path, byte: int) -> str | None:
    """The tensor that holds this byte of a safetensors file."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    spans = {k: v["data_offsets"] for k, v in json.loads(data[8:start]).items() if k != "__metadata__"}
    return next((k for k, (a, b) in spans.items() if a <= byte - start < b), None)


def undetected(folder: Path, trials: int, seed: int = 0) -> tuple[list[str], Counter[str]]:
    """Flip one random bit of one random file in each trial; what was not seen, or seen and not named; and where flips fell."""
    checkpoints, draw = two_checkpoints(folder), random.Random(seed)
    targets = [folder / "step-00000020" / name for name in FILES] + [folder / "latest"]
    bad, fell = [], Counter[str]()
    for trial in range(trials):
        path = targets[trial % 4]
        bit = draw.randrange(8 * path.stat().st_size)
        tensor = tensor_at(path, bit // 8) if path.suffix == ".safetensors" else None
        fell[f"{path.name} {'in a tensor' if tensor else ''}"] += 1
        flip(path, bit)
        try:
            step, told = loaded_step(checkpoints)
            named = any(str(path) in text and (tensor is None or tensor in text) for text in told)
            if not named or step != (20 if path.name == "latest" else 10):
                bad.append(f"{path.name} bit {bit} {tensor}: step {step}, {told}")
        except Exception as error:  # of any kind: it was not told as damage, or a damaged state was used
            bad.append(f"{path.name} bit {bit} {tensor}: {error}")
        flip(path, bit)
    assert loaded_step(checkpoints) == (20, [])  # no false alarm once all is put back
    return bad, fell


def test_every_flipped_bit_is_found_and_named_and_the_checkpoint_before_is_used(tmp_path: Path) -> None:
    bad, fell = undetected(tmp_path, 2000)
    assert bad == []
    assert min(fell.values()) >= 5, fell


def test_without_digests_a_flipped_bit_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_sha", lambda data: "same")
    bad, _ = undetected(tmp_path, 60)
    assert len(bad) >= 15


def test_safetensors_alone_does_not_notice_a_flipped_bit_in_a_tensor(tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    safetensors.torch.save_file(state(1)["model"], path)
    flip(path, 8 * (path.stat().st_size - 100) + 3)
    loaded = safetensors.torch.load_file(path)
    assert not same(dict(sorted(loaded.items())), state(1)["model"])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "cut to nothing", "appended", "a page of zeros", "missing", "swapped"])
def test_damage_to_a_file_is_named_and_the_checkpoint_before_is_used(name: str, damage: str, tmp_path: Path) -> None:
    checkpoints = two_checkpoints(tmp_path)
    path = tmp_path / "step-00000020" / name
    data = path.read_bytes()
    middle = len(data) // 2
    match damage:
        case "missing":
            path.unlink()
        case "swapped":
            path.write_bytes((tmp_path / "step-00000010" / name).read_bytes())
        case _:
            path.write_bytes(
                {
                    "cut": data[:-1],
                    "cut to nothing": b"",
                    "appended": data + b"\n",
                    "a page of zeros": data[:middle] + bytes(64) + data[middle + 64 :],
                }[damage]
            )
    # A whole manifest of another checkpoint is a good file: then it is the others that do not match it.
    blamed = path if (name, damage) != ("manifest.json", "swapped") else tmp_path / "step-00000020"
    step, told = loaded_step(checkpoints)
    assert step == 10
    assert any(str(blamed) in text and "Going on from the older step-00000010" in text for text in told), told


@pytest.mark.parametrize("content", [None, b"", b"step-00000010", b"\xff\xfe\x00", b"step-00000099 " + b"0" * 64])
def test_without_a_good_pointer_the_newest_checkpoint_is_used_with_a_warning(content: Any, tmp_path: Path) -> None:
    checkpoints = two_checkpoints(tmp_path)
    if content is None:
        (tmp_path / "latest").unlink()
    else:
        (tmp_path / "latest").write_bytes(content)
    step, told = loaded_step(checkpoints)
    assert step == 20
    assert len(told) == 1
    assert str(tmp_path / "latest") in told[0]


def test_a_pointer_to_what_is_gone_says_so(tmp_path: Path) -> None:
    checkpoints = two_checkpoints(tmp_path)
    shutil.rmtree(tmp_path / "step-00000020")
    step, told = loaded_step(checkpoints)
    assert step == 10
    assert "points to 'step-00000020', which is not there" in told[0]


def test_when_all_are_damaged_each_is_named_with_exit_code_3(tmp_path: Path) -> None:
    checkpoints = two_checkpoints(tmp_path)
    for step in (10, 20):
        flip(tmp_path / f"step-000000{step}" / "state.safetensors", 8 * 1500)
    with pytest.raises(CorruptError, match=r"(?s)step-00000020.*model/layer.*step-00000010.*model/layer") as caught:
        checkpoints.load()
    assert caught.value.exit_code == 3


def test_damage_in_the_header_says_header(tmp_path: Path) -> None:
    two_checkpoints(tmp_path)
    flip(tmp_path / "step-00000020" / "state.safetensors", 8 * 30)
    with pytest.raises(CorruptError, match=r"state\.safetensors: is damaged in its header"):
        read(tmp_path / "step-00000020")


def test_a_checkpoint_of_another_format_is_refused_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    two_checkpoints(tmp_path)
    monkeypatch.undo()
    with pytest.raises(CorruptError, match="has format 99; this version reads 1"):
        read(tmp_path / "step-00000020")


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "nothing").load() is None


def test_a_file_that_is_not_safetensors_is_named(tmp_path: Path) -> None:
    (tmp_path / "student.safetensors").write_bytes(b"PK\x03\x04 something else")
    for path in (tmp_path / "student.safetensors", tmp_path / "missing.safetensors"):
        with pytest.raises(CorruptError, match=re.escape(f"{path}: is not a readable safetensors file")):
            load_tensors(path)


# -- what stays --------------------------------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_stay_and_the_rest_goes(keep: int, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=keep)
    for step in range(1, 6):
        checkpoints.save(step, *freeze(state(step)))
    assert names(tmp_path) == ["latest", *[f"step-0000000{s}" for s in range(6 - keep, 6)]]
    assert loaded_step(checkpoints) == (5, [])


@pytest.mark.parametrize("keep", [1, 2])
def test_a_save_below_a_damaged_checkpoint_counts_and_the_damaged_one_goes(keep: int, tmp_path: Path) -> None:
    two_checkpoints(tmp_path)
    flip(tmp_path / "step-00000020" / "state.json", 200)
    checkpoints = Checkpoints(tmp_path, keep=keep)
    assert loaded_step(checkpoints)[0] == 10
    checkpoints.save(15, *freeze(state(15)))
    assert loaded_step(checkpoints) == (15, [])
    assert "step-00000020" not in names(tmp_path)


def events_of_a_save(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a save forces to the disk and what it renames, in its order."""
    events: list[str] = []
    fsync, rename, replace = os.fsync, Path.rename, Path.replace
    short = lambda path: re.sub(r"\.[0-9a-f]{32}", "", str(Path(path).relative_to(folder)))  # noqa: E731

    def fsynced(descriptor: int) -> None:
        events.append(f"fsync {short(Path(f'/proc/self/fd/{descriptor}').readlink())}")
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        events.append(f"rename {short(self)} to {short(target)}")
        return rename(self, target)

    def replaced(self: Path, target: Path) -> Path:
        events.append(f"rename {short(self)} to {short(target)}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsynced)
    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(Path, "replace", replaced)
    Checkpoints(folder).save(1, *freeze(state(1)))
    return events


def test_all_is_on_the_disk_before_it_gets_its_name_and_the_name_before_the_pointer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut keeps what was forced to the disk, and may lose or reorder the rest; no test can pull the plug."""
    assert events_of_a_save(tmp_path, monkeypatch) == [
        "fsync .step-00000001/state.safetensors",
        "fsync .step-00000001/state.json",
        "fsync .step-00000001/manifest.json",
        "fsync .step-00000001",
        "rename .step-00000001 to step-00000001",
        "fsync .",
        "fsync .latest",
        "rename .latest to latest",
        "fsync .",
    ]


# -- a save that is killed ---------------------------------------------------------------------------------------------


class Killed(BaseException):
    """No handler of ours catches it, and nothing touches the disk after it: as if the process were gone."""


class Disk:
    """Counts the calls that change the disk, and dies at the k-th: before it, after it, or halfway through a write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int | None = None, when: str = "before") -> None:
        self.at, self.when, self.count, self.dead = at, when, 0, False
        for owner, name in [
            (os, "fsync"),
            (Path, "rename"),
            (Path, "replace"),
            (Path, "mkdir"),
            (Path, "write_text"),
            (Path, "unlink"),
            (shutil, "rmtree"),
            (safetensors.torch, "save_file"),
        ]:
            monkeypatch.setattr(owner, name, self.counted(getattr(owner, name)))

    def counted(self, call: Any) -> Any:
        @functools.wraps(call)
        def counting(*args: Any, **kwargs: Any) -> Any:
            if self.dead:
                raise Killed
            self.count += 1
            here = self.count == self.at
            if here and self.when == "before":
                self.die()
            result = call(*args, **kwargs)
            if here and self.when == "half":
                self.halve(call.__name__, args)
            if here:
                self.die()
            return result

        return counting

    def halve(self, name: str, args: Any) -> None:
        path = {"save_file": lambda: Path(args[1]), "write_text": lambda: args[0]}.get(name, lambda: None)()
        if path is not None:
            os.truncate(path, path.stat().st_size // 2)

    def die(self) -> None:
        self.dead = True
        raise Killed


def killed_saves(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kill a save at each of its calls that change the disk, in each way; whatever went wrong afterwards."""
    wrong = []
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        checkpoints = Checkpoints(root / "count", keep=1)
        checkpoints.save(10, *freeze(state(10)))
        disk.count = 0
        checkpoints.save(20, *freeze(state(20)))
        calls = disk.count
    assert calls >= 8, calls
    for when in ("before", "half", "after"):
        for at in range(1, calls + 1):
            folder = root / f"{when}{at}"
            checkpoints = Checkpoints(folder, keep=1)
            checkpoints.save(10, *freeze(state(10)))
            with monkeypatch.context() as patch:
                Disk(patch, at, when)
                with pytest.raises(Killed):
                    checkpoints.save(20, *freeze(state(20)))
            try:
                step, told = loaded_step(checkpoints)
            except (CorruptError, AssertionError) as error:
                wrong.append(f"{when} {at}: {error}")
                continue
            if step not in (10, 20) or told:
                wrong.append(f"{when} {at}: step {step}, {told}")
            checkpoints.save(30, *freeze(state(30)))
            if names(folder) != ["latest", "step-00000030"] or loaded_step(checkpoints) != (30, []):
                wrong.append(f"{when} {at}: debris {names(folder)}")
    return wrong


def test_a_save_killed_at_any_call_leaves_the_old_state_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert killed_saves(tmp_path, monkeypatch) == []


def test_a_save_in_place_does_not_survive_the_same_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_place(self: Checkpoints, step: int, tree: Any, tensors: Any) -> None:
        folder = self.folder / f"step-{step:08d}"
        for old in self.all():
            shutil.rmtree(old)
        folder.mkdir(parents=True)
        safetensors.torch.save_file(dict(tensors), folder / "state.safetensors")
        (folder / "state.json").write_text(json.dumps({"format": 1, "tree": tree}))
        files = {n: checkpoint._digests(folder / n) for n in ("state.safetensors", "state.json")}
        body = json.dumps({"format": 1, "files": files})
        (folder / "manifest.json").write_text(checkpoint._sealed(body))
        write_text(self.folder / "latest", f"{folder.name} {checkpoint._sha(folder.name.encode())}")
        checkpoint.sweep(self.folder)

    monkeypatch.setattr(Checkpoints, "save", in_place)
    assert len(killed_saves(tmp_path, monkeypatch)) >= 10


def test_the_first_save_killed_at_any_call_leaves_none_or_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(1, 13):
        checkpoints = Checkpoints(tmp_path / str(at))
        with monkeypatch.context() as patch:
            Disk(patch, at)
            with pytest.raises(Killed):
                checkpoints.save(10, *freeze(state(10)))
        step, told = loaded_step(checkpoints)
        assert step in (None, 10), at
        assert told == [], at


@pytest.mark.parametrize("write", [lambda p: save_tensors(p, {"a": torch.ones(9)}), lambda p: write_text(p, "new")])
def test_a_small_file_is_replaced_whole_or_not_at_all(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write(path)
    new = path.read_bytes()
    outcomes = set()
    for at in range(1, 5):
        path.write_bytes(b"old")
        with monkeypatch.context() as patch:
            Disk(patch, at, "half")
            with pytest.raises(Killed):
                write(path)
        outcomes.add(path.read_bytes())
        checkpoint.sweep(tmp_path)
        assert names(tmp_path) == ["file"]
    assert outcomes == {b"old", new}


# -- a full disk -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["save_file", "write_text", "fsync", "mkdir", "rename", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_where_and_how_much_and_leaves_the_checkpoint_before(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(10, *freeze(state(10)))

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number))

    owner = {"save_file": safetensors.torch, "fsync": os}.get(call, Path)
    with monkeypatch.context() as patch:
        patch.setattr(owner, call, full)
        with pytest.raises(MachineError, match=r"the disk is full: [\d,]+ bytes are needed, [\d,]+ are free") as caught:
            checkpoints.save(20, *freeze(state(20)))
    assert caught.value.exit_code == 4
    assert str(tmp_path) in str(caught.value)
    assert loaded_step(checkpoints) == (10, [])
    assert [n for n in names(tmp_path) if n.startswith(".")] == []


def test_a_folder_that_may_not_be_written_is_an_error_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(MachineError, match="cannot be written") as caught:
        Checkpoints(tmp_path / "file" / "checkpoints").save(1, *freeze(state(1)))
    assert "full" not in str(caught.value)


LIMITED = """
import resource, sys
import torch
from pathlib import Path
from understudy.checkpoint import Checkpoints, freeze
from understudy.errors import MachineError
from understudy.folder import Journal
from understudy.writing import save_tensors
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
Checkpoints(folder).save(1, *freeze({"w": torch.ones(1000)}))
journal = Journal(folder / "metrics.jsonl")
journal.open(0)
def write_much():
    for i in range(2000):
        journal.write({"step": i, "loss": {"student": 0.5}})
    journal.sync()
for what in (
    lambda: Checkpoints(folder).save(2, *freeze({"w": torch.ones(50_000)})),
    lambda: save_tensors(folder / "student.safetensors", {"w": torch.ones(50_000)}),
    write_much,
    lambda: (journal.write({"step": 0}), journal.close()),
):
    try:
        what()
        print("nothing raised")
    except MachineError as error:
        print(error.exit_code, str(error).replace("\\n", " "))
print(Checkpoints(folder).load()[0])
"""


def test_a_limit_on_the_size_of_files_is_told_like_a_full_disk(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    save, single, journal, closing, loaded = done.stdout.splitlines()
    assert re.match(
        r"4 .*step-00000002: cannot be written: the disk is full: 200,\d+ bytes are needed, [\d,]+ are", save
    )
    assert re.match(r"4 .*student\.safetensors: cannot be written: the disk is full: 200,000 bytes are needed", single)
    assert re.match(r"4 .*metrics\.jsonl: cannot be written: .*File too large", journal)
    assert re.match(r"4 .*metrics\.jsonl: cannot be written", closing)
    assert "map" in loaded
    assert names(tmp_path) == ["latest", "metrics.jsonl", "step-00000001"]


# -- no pickle ---------------------------------------------------------------------------------------------------------

FORBIDDEN = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "torch.load", "torch.save", "torch.jit.load", "torch.distributed.checkpoint.load", "dcp.load"}
SAFE = {"weights_only": "True", "allow_pickle": "False"}


def harmless(call: ast.Call) -> bool:
    """torch's reader that refuses everything but tensors, said in so many words: the one way to read a user's own file."""
    safe = [k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in call.keywords]
    return ast.unparse(call.func) == "torch.load" and any(safe)


def unsafe(source: str) -> list[str]:
    """Every use of pickle, in whatever guise, and every evaluation of text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN]
        if isinstance(node, ast.ImportFrom):
            found += [a.name for a in node.names if (node.module or "").split(".")[0] in FORBIDDEN]
            found += [a.name for a in node.names if f"{node.module}.{a.name}" in CALLS]
        if isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in CALLS and not harmless(node):
            found.append(name)
        if isinstance(node, ast.keyword) and node.arg in SAFE and ast.unparse(node.value) != SAFE[node.arg]:
            found.append(node.arg)
    return found


def test_the_package_unpickles_nothing_and_evaluates_no_text() -> None:
    root = Path(understudy.__file__).parent
    found = {str(p.relative_to(root)): u for p in root.rglob("*.py") if (u := unsafe(p.read_text()))}
    # A module that is measured is handed to a process of its own, as multiprocessing would do it: by a file that is made
    # for it in a folder of its own, and read by that process alone.
    handed = {"measure/bench.py": ["torch.save", "torch.save"], "measure/worker.py": ["torch.load", "weights_only"]}
    assert found == handed


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load('x')",
        "from torch import save",
        "eval('1')",
        "np.load(f, allow_pickle=True)",
        "torch.load('x', weights_only=False)",
        "torch.load('x', weights_only=trusted)",
        "torch.save(x, 'x', weights_only=True)",
    ],
)
def test_the_check_for_pickle_sees_it(source: str) -> None:
    assert unsafe(source)


def test_no_file_of_a_checkpoint_is_a_pickle_or_a_zip(tmp_path: Path) -> None:
    two_checkpoints(tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert not path.read_bytes().startswith((b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")), path


def test_the_json_of_a_checkpoint_is_strict(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(1, *freeze({"nan": math.nan, "inf": [math.inf], "keys": {1: "a", "1": "b"}}))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), "a key comes twice"
        return dict(pairs)

    for name in ("state.json", "manifest.json"):
        text = (tmp_path / "step-00000001" / name).read_text()
        json.loads(text, parse_constant=refuse, object_pairs_hook=once)
