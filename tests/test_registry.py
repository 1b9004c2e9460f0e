"""What recipes may name: our own entries, and those of a user's file."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import understudy as us
from understudy import compress, losses, methods, registry, zoo
from understudy.data import sets
from understudy.errors import InputError, MissingExtra
from understudy.optimize import Optim, optimizers
from understudy.recipe.forms import form
from understudy.registry import KINDS, Entry, entries, entry, load_plugin, options_of, register

OWN = {
    "data": ["csv", "digits", "hugging_face", "images", "npz"],
    "model": ["CNN", "MLP", "ResNet", "from_config"],
    "teacher": ["CNN", "MLP", "ResNet", "from_config", "hf", "timm", "onnx", "keras", "saved_model"],
    "method": list(methods.__all__),
    "loss": list(losses.__all__),
    "projector": ["Conv1x1", "ConvNorm", "Linear"],
    "curve": ["constant", "linear", "cosine", "steps_at"],
    "compression": list(compress.__all__),
    "optimizer": list(optimizers()),
}
EVERY = [pytest.param(e, id=f"{kind} {name}") for kind in KINDS for name, e in entries(kind).items() if e.kind == kind]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    plugged, modules, path = dict(registry._PLUGGED), set(sys.modules), list(sys.path)
    yield
    assert sys.path == path
    registry._PLUGGED.clear()
    registry._PLUGGED.update(plugged)
    for name in set(sys.modules) - modules:
        if name.startswith("understudy_plugin_"):
            del sys.modules[name]


# -- our own -----------------------------------------------------------------------------------------------------------


def test_these_are_the_entries_of_each_kind() -> None:
    assert {kind: list(entries(kind)) for kind in KINDS} == OWN


@pytest.mark.parametrize(
    ("source", "paper"),
    [
        ("Jin et al. 2023, CVPR, \"Multi-Level Logit Distillation\"; weights as in the code.", "Jin et al. 2023, CVPR"),
        ("You et al. 2017, KDD, with a loss as in the code of\n    Zhang et al. 2022, arXiv:2201.00007.", "You et al. 2017, KDD"),
        ("Ba & Caruana 2014, arXiv:1312.6184,\n    equation 1.", "Ba & Caruana 2014, arXiv:1312.6184"),
        ("the usual one, as in ``torch``.", ""),
    ],
)  # fmt: skip
def test_a_paper_is_the_first_that_the_source_names(source: str, paper: str) -> None:
    def made() -> None: ...

    made.__doc__ = f"""Of :func:`~understudy.losses.kl` and :math:`x`.

    Family: several teachers.
    Source: {source}
    Differs: from Me 2020, arXiv:0000.00000.
    """.replace("\n    equation", "\n        equation").replace("\n    Zhang", "\n        Zhang")
    found = Entry("method", "made", made)
    assert (found.summary, found.family, found.paper) == ("Of `kl` and `x`.", "several teachers", paper)
    assert (
        Entry("loss", "gelu", torch.nn.functional.gelu).family,
        Entry("optimizer", "SGD", torch.optim.SGD).paper,
    ) == ("", "")


def test_whatever_is_public_of_a_kind_can_be_named() -> None:
    assert list(entries("loss")) == losses.__all__
    assert list(entries("method")) == methods.__all__
    assert list(entries("model")) == zoo.__all__
    assert list(entries("data")) == sets.__all__
    assert list(entries("compression")) == compress.__all__


@pytest.mark.parametrize("e", EVERY)
def test_an_entry_says_what_it_is_and_what_each_option_means(e: Entry) -> None:
    assert e.summary
    assert "\n" not in e.summary
    assert e.source == "understudy"
    untold = [o.name for o in e.options.values() if not o.told]
    assert not untold or e.kind in ("optimizer", "curve", "projector")


@pytest.mark.parametrize("e", EVERY)
def test_every_option_can_be_written_but_for_these(e: Entry) -> None:
    unwritten = [o.name for o in e.options.values() if form(o.annotation) in (None, {"type": "null"})]
    assert unwritten == (["groups"] if e.kind == "optimizer" else [])


@pytest.mark.parametrize("e", EVERY)
def test_what_must_be_given_can_be(e: Entry) -> None:
    assert [o.name for o in e.options.values() if o.required and form(o.annotation) is None] == []


def test_what_is_given_by_whoever_builds_it_is_no_option() -> None:
    assert list(entry("method", "kd").options) == ["temperature", "alpha", "mask"]
    assert list(entry("loss", "kl").options) == ["temperature"]
    assert not {"params", "name"} & entry("optimizer", "SGD").options.keys()
    assert {"lr", "schedule", "warmup", "clip", "momentum", "nesterov"} <= entry("optimizer", "SGD").options.keys()


def test_sizes_that_the_data_tells_need_not_be_given() -> None:
    assert [name for name, o in entry("model", "MLP").options.items() if o.required] == []
    assert [name for name, o in entry("model", "CNN").options.items() if o.required] == ["channels"]
    assert entry("model", "CNN").options["classes"].default is None


def test_an_options_default_and_meaning_are_the_functions_own() -> None:
    option = entry("method", "kd").options["temperature"]
    assert (option.default, option.annotation, option.told, option.required) == (4.0, float, "T > 0.", False)


def test_an_optimizer_is_made_by_its_name() -> None:
    made = entry("optimizer", "SGD").make(lr=0.5, momentum=0.9)
    assert isinstance(made, Optim)
    assert (made.kind, made.lr, made.options) == (torch.optim.SGD, 0.5, {"momentum": 0.9})


def test_a_name_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"^there is no model 'cnn'\. Did you mean 'CNN'\?$"):
        entry("model", "cnn")


@pytest.mark.parametrize(
    "name", ["os.system", "understudy.zoo.CNN", "CNN.__init__", "__builtins__", "nn.Linear", "", "*"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_has_a_name_that_is_a_path_to_code(kind: str, name: str) -> None:
    with pytest.raises(InputError, match="there is no "):
        entry(kind, name)


def test_options_are_read_off_a_function() -> None:
    def make(a: int, /, b: str, *rest: int, c: float = 0.5, d: Path | None = None, **more: Any) -> None:
        """Make it.

        Args:
            b: the text,
                on two lines, with ``code`` and :func:`~.linear`.
            c: a share.

        Returns: nothing.
        """

    found = {o.name: o for o in options_of(make)}
    assert list(found) == ["b", "c", "d"]
    assert found["b"].told == "the text, on two lines, with `code` and linear."
    assert found["c"].told == "a share."
    assert found["d"].told == ""
    assert found["d"].annotation == Path | None
    assert [o.name for o in options_of(make, named_only=True)] == ["c", "d"]
    assert next(iter(options_of(functools.partial(make, 1)))).name == "b"


# -- a user's own ------------------------------------------------------------------------------------------------------


def plugin(folder: Path, text: str, name: str = "mine.py") -> Path:
    file = folder / name
    file.write_text(f"import understudy as us\nfrom torch import nn\n{text}")
    return file


MODEL = '''
@us.register("model")
class Mine(nn.Module):
    """A model of mine.

    Args:
        width: of it.
    """
    def __init__(self, width: int = 3) -> None:
        super().__init__()
'''


@pytest.mark.parametrize("kind", KINDS[:-2])
def test_each_kind_can_be_added_to(tmp_path: Path, kind: str) -> None:
    file = plugin(tmp_path, f'@us.register("{kind}")\ndef mine(*, width: int = 3) -> None:\n    """Mine."""\n')
    (found,) = load_plugin(file)
    assert (found.kind, found.name, found.summary, list(found.options)) == (kind, "mine", "Mine.", ["width"])
    assert found.source == str(file.resolve())
    assert list(entries(kind)) == [*OWN[kind], "mine"]


def test_a_model_can_be_a_teacher_too_and_not_the_other_way_round(tmp_path: Path) -> None:
    load_plugin(plugin(tmp_path, MODEL + '\n@us.register("teacher")\ndef oracle() -> None:\n    """One."""\n'))
    assert {"Mine", "oracle"} <= entries("teacher").keys()
    assert "Mine" in entries("model")
    assert "oracle" not in entries("model")


def test_another_name_can_be_given(tmp_path: Path) -> None:
    load_plugin(plugin(tmp_path, MODEL.replace('register("model")', 'register("model", name="wide-net")')))
    assert entry("model", "wide-net").make().__class__.__name__ == "Mine"


def test_what_another_library_made_can_be_registered(tmp_path: Path) -> None:
    file = plugin(tmp_path, 'us.register("model", name="linear")(nn.Linear)\n')
    (found,) = load_plugin(file)
    assert found.make is nn.Linear
    assert found.source == str(file.resolve())


def test_a_plugin_imports_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_the_plugin.py").write_text("WIDTH = 7\n")
    text = "import beside_the_plugin\n" + MODEL.replace("int = 3", "int = beside_the_plugin.WIDTH")
    assert load_plugin(plugin(tmp_path, text))[0].options["width"].default == 7
    del sys.modules["beside_the_plugin"]


def test_a_plugin_may_have_dataclasses_and_types_that_come_later(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\nimport dataclasses\nimport understudy as us\n@us.register('data')\ndef mine(*, shape: Shape) -> None:\n"
        "    '''Mine.'''\n@dataclasses.dataclass\nclass Shape:\n    rows: int\n    columns: int = 3\n"
    )
    file = tmp_path / "mine.py"
    file.write_text(text)
    (found,) = load_plugin(file)
    made = form(found.options["shape"].annotation)
    assert made is not None
    assert list(made["properties"]) == ["rows", "columns"]


def test_a_plugin_can_be_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = plugin(tmp_path, MODEL)
    first = load_plugin(file)
    monkeypatch.chdir(tmp_path)
    assert [e.name for e in load_plugin(Path("mine.py"))] == [e.name for e in first] == ["Mine"]


BROKEN = {
    "import nothing_of_this_name": (3, "cannot be run: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
    "def broken(:\n    pass": (3, "cannot be run: SyntaxError: "),
    "x = 1\n  y = 2": (4, "cannot be run: IndentationError: "),
    "import sys\nsys.exit(3)": (4, "cannot be run: SystemExit: 3"),
    "raise SystemExit": (3, "cannot be run: SystemExit: "),
    "x = 1 / 0": (3, "cannot be run: ZeroDivisionError: division by zero"),
    "def f():\n    raise ValueError('deep')\n\nf()": (4, "cannot be run: ValueError: deep"),
    "@us.register('modle')\ndef f():\n    pass": (3, "register: there is no kind 'modle'. Did you mean 'model'?"),
    "@us.register('optimizer')\ndef f():\n    pass": (3, "register: there is no kind 'optimizer'."),
    "@us.register('model')\nclass CNN(nn.Module):\n    pass": (3, "register: there is a model 'CNN' already. Give another name: register('model', name=...)."),
    "@us.register('loss', name='kl')\ndef f():\n    pass": (3, "register: there is a loss 'kl' already."),
    "@us.register('model')\ndef f(x: 'Nowhere') -> None:\n    pass": (None, "cannot be run: NameError: name 'Nowhere' is not defined"),
    "x = 1": (None, 'registers nothing. Put @understudy.register("model") above what recipes may name.'),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), BROKEN.items(), ids=[t.replace("\n", " ")[:40] for t in BROKEN])
def test_a_plugin_that_does_not_work_is_told_with_its_own_line(
    tmp_path: Path, text: str, expected: tuple[int | None, str]
) -> None:
    line, told = expected
    file = plugin(tmp_path, text + "\n")
    with pytest.raises(InputError) as caught:
        load_plugin(file)
    assert str(caught.value).startswith(f"--plugin {file}:{line}: {told}" if line else f"--plugin {file}")
    assert told in str(caught.value)


def test_a_plugin_that_lacks_a_package_of_ours_says_which(tmp_path: Path) -> None:
    file = plugin(tmp_path, "from understudy.errors import MissingExtra\nraise MissingExtra('This', 'images')\n")
    with pytest.raises(MissingExtra, match=r"pip install 'understudy\[images\]'"):
        load_plugin(file)


@pytest.mark.parametrize("name", ["nothing.py", "mine.txt", ".", "os.system", "sub"])
def test_a_plugin_is_a_python_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.txt").write_text("x = 1\n")
    (tmp_path / "sub").mkdir()
    with pytest.raises(InputError, match=r"there is no such file; give a Python file, such as my_models\.py\."):
        load_plugin(tmp_path / name)


def test_two_plugins_cannot_take_one_name(tmp_path: Path) -> None:
    load_plugin(plugin(tmp_path, MODEL))
    with pytest.raises(InputError, match=r"other\.py:\d+: register: there is a model 'Mine' already"):
        load_plugin(plugin(tmp_path, MODEL, "other.py"))


def test_in_python_a_name_can_be_registered_anew_from_where_it_is() -> None:
    for width in (3, 4):

        @us.register("curve")
        def flat(height: float = width) -> Any:
            """Flat."""

        assert entry("curve", "flat").options["height"].default == width


def test_what_is_registered_is_given_back_as_it_was() -> None:
    class Model(nn.Module):
        pass

    assert register("model")(Model) is Model
