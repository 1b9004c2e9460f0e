"""What a recipe may name, and what each of it takes: read off the functions themselves.

An entry is a function or a class. Its options are its arguments, with their types, their defaults, and what its docstring
says of them; so that adding a loss, a method, a model or a data set to what recipes know costs nothing beyond writing it.
A user's own come in with ``--plugin my_models.py``, where they are marked with :func:`register`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import inspect
import re
import sys
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from understudy import compress, losses, methods, progress, projectors, zoo
from understudy.data import sets
from understudy.errors import InputError, UnderstudyError, choices
from understudy.optimize import Optim, optimizers
from understudy.teachers import Onnx, SavedModel, keras, named

__all__ = ["KINDS", "Entry", "Option", "entries", "entry", "load_plugin", "options_of", "register"]

KINDS = ("data", "model", "teacher", "method", "loss", "projector", "curve", "compression", "optimizer")
"""Of entries. A plugin may add to all but the last two."""

FROM_DATA = ("inputs", "classes")
"""Arguments of models that are filled in from the data where a recipe leaves them out."""

Made = TypeVar("Made", bound=Callable[..., Any])

_HIDDEN = {
    "method": ("student", "teacher", "task", "label", "example"),
    "compression": ("model", "example"),
    "optimizer": ("params", "name"),
}
"""Arguments that are given by whoever builds the entry."""


@dataclass(frozen=True)
class Option:
    """An argument that a recipe may give.

    Attributes:
        annotation: its type.
        default: what stands where it is not given; ``inspect.Parameter.empty`` where it must be.
        told: what the docstring says of it.
    """

    name: str
    annotation: Any
    default: Any = inspect.Parameter.empty
    told: str = ""

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is inspect.Parameter.empty


@dataclass(frozen=True)
class Entry:
    """Something that recipes may name.

    Attributes:
        make: the function or class.
        source: "understudy", or the plugin's file.
        also: further functions whose keyword arguments are options too.
    """

    kind: str
    name: str
    make: Callable[..., Any]
    source: str = "understudy"
    also: tuple[Callable[..., Any], ...] = field(default=(), repr=False)

    @functools.cached_property
    def options(self) -> dict[str, Option]:
        """What it takes, by name."""
        hidden = _HIDDEN.get(self.kind, ())
        found = [
            o
            for make in (self.make, *self.also)
            for o in options_of(make, named_only=self.kind == "loss" and not inspect.isclass(make))
        ]
        if self.kind in ("model", "teacher"):
            found = [dataclasses.replace(o, default=None) if o.name in FROM_DATA else o for o in found]
        return {option.name: option for option in found if option.name not in hidden}

    @property
    def docstring(self) -> str:
        """As it is written; of an optimizer, whose class is torch's, its name there."""
        if self.kind == "optimizer":
            return f"torch.optim.{self.name}."
        return inspect.getdoc(self.make.func if isinstance(self.make, functools.partial) else self.make) or ""

    @property
    def summary(self) -> str:
        """The first line of its docstring, as text."""
        line = self.docstring.partition("\n")[0]
        return re.sub(r":\w+:(`)~?([^`]*\.)?", r"\1", line).replace("``", "`")

    @property
    def family(self) -> str:
        """What kind of method or loss it is, by the docstring's ``Family:``; empty where it does not say."""
        found = re.search(r"^Family: (.+)\.$", self.docstring, re.MULTILINE)
        return found[1] if found else ""

    @property
    def paper(self) -> str:
        """Who has written it, when and where: the first paper of the docstring's ``Source:``; empty where there is none."""
        found = re.search(r"^Source: (.*(?:\n +.*)*)", self.docstring, re.MULTILINE)
        return _paper(" ".join(found[1].split())) if found else ""


def _paper(source: str) -> str:
    """The first paper that a source names.

    >>> _paper("Yun et al. 2020 (CS-KD), arXiv:2003.13964; numbers as in its code.")
    'Yun et al. 2020 (CS-KD), arXiv:2003.13964'
    >>> _paper("the binary case of You & Me 2017, KDD, section 3.")
    'You & Me 2017, KDD'
    """
    authors = r"[A-Z][\w-]*(?: et al\.| (?:&|and) [A-Z][\w-]*)? \d{4}(?: \([^)]+\))?"
    by = re.search(authors, source)
    if by is None:
        return ""
    more = re.split(f";|{authors}", source[by.end() :])[0].rstrip(".").split(", ")
    number = [part for part in more if part.startswith("arXiv:")]
    return ", ".join([by[0], *(number or more[1:2])[:1]])


def options_of(make: Callable[..., Any], *, named_only: bool = False) -> Iterator[Option]:
    """The arguments of a function or a class; ``named_only`` leaves out those that can be given by position."""
    made = make.func if isinstance(make, functools.partial) else make
    hints = typing.get_type_hints(made.__init__ if inspect.isclass(made) else made, include_extras=True)
    told = _told(inspect.getdoc(made) or "")
    for p in inspect.signature(make).parameters.values():
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY) or (named_only and p.kind != p.KEYWORD_ONLY):
            continue
        yield Option(p.name, hints.get(p.name) or _of_default(p.default), p.default, told.get(p.name, ""))


def _of_default(default: Any) -> Any:
    """The type of an argument that has none written: that of its default, if that is plain."""
    return type(default) if type(default) in (bool, int, float, str) else Any


def _told(docstring: str) -> dict[str, str]:
    """What the docstring says of each argument or attribute, each on one line.

    >>> _told("Does it.\\n\\nArgs:\\n    lr: the learning\\n        rate.\\n    clip: of gradients.\\n\\nRaises: nothing.")
    {'lr': 'the learning rate.', 'clip': 'of gradients.'}
    """
    section = re.search(r"^(?:Args|Attributes):\n((?:[ ]{4}.*\n?|\s*\n)+)", docstring, re.MULTILINE)
    lines = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.MULTILINE)
    return {
        name: re.sub(r":\w+:`~?\.?([^`]*)`", r"\1", " ".join(text.split())).replace("``", "`") for name, text in lines
    }


def entries(kind: str) -> dict[str, Entry]:
    """All of a kind, by name: our own first, then those of plugins. Whatever is a model can be a teacher."""
    known = {**_own(kind), **{e.name: e for (k, _), e in _PLUGGED.items() if k == kind}}
    return {**entries("model"), **known} if kind == "teacher" else known


def entry(kind: str, name: str) -> Entry:
    """One of them. Raises: InputError with the nearest name."""
    known = entries(kind)
    if name not in known:
        raise InputError(f"there is no {kind} {name!r}. {choices(name, known)}")
    return known[name]


@functools.cache
def _own(kind: str) -> Mapping[str, Entry]:
    rooms: dict[str, Any] = {
        "data": sets,
        "model": zoo,
        "method": methods,
        "loss": losses,
        "projector": projectors,
        "compression": compress,
    }
    if kind in rooms:
        found = {name: getattr(rooms[kind], name) for name in rooms[kind].__all__ if name != "Projector"}  # their root
    elif kind == "curve":
        found = {
            make.__name__: make for make in (progress.constant, progress.linear, progress.cosine, progress.steps_at)
        }
    elif kind == "teacher":
        found = {"hf": named.hf, "timm": named.timm, "onnx": Onnx, "keras": keras, "saved_model": SavedModel}
    else:
        return {name: _optimizer(name, made) for name, made in optimizers().items()}
    return {name: Entry(kind, name, make) for name, make in found.items()}


def _optimizer(name: str, made: Callable[..., Any]) -> Entry:
    return Entry("optimizer", name, functools.partial(Optim, name), also=(made,))


# -- plugins -----------------------------------------------------------------------------------------------------------

_PLUGGED: dict[tuple[str, str], Entry] = {}
_LOADING: list[Path] = []  # whose entry it is: what a plugin registers may be another library's


def register(kind: str, name: str | None = None) -> Callable[[Made], Made]:
    """Let recipes name a function or class of yours: ``@register("model")`` above it.

    ==============  ===================================================================================================
    kind            what it is
    ==============  ===================================================================================================
    ``data``        a function that returns :class:`understudy.data.Parts`
    ``model``       a class or function that makes a module; arguments ``inputs`` (channels or features) and ``classes``
                    (outputs) are filled in from the data where the recipe leaves them out
    ``teacher``     the same for what can only teach: any callable from a batch's inputs to outputs
    ``method``      a function of (student, teacher) and options that returns a Method
    ``loss``        a function of tensors; its keyword-only arguments are the options
    ``projector``   a class of modules
    ``curve``       a function that returns a function of progress
    ==============  ===================================================================================================

    Args:
        kind: one of these.
        name: by which recipes call it; the function's own if not given.

    Raises: InputError for another kind, or for a name that is taken.
    """
    if kind not in KINDS[:-2]:
        raise InputError(f"register: there is no kind {kind!r}. {choices(kind, KINDS[:-2])}")

    def mark(made: Made) -> Made:
        key = (kind, name or made.__name__)
        source = str(_LOADING[-1]) if _LOADING else inspect.getsourcefile(made) or "?"
        if key[1] in _own(kind) or (key in _PLUGGED and _PLUGGED[key].source != source):
            raise InputError(
                f"register: there is a {kind} {key[1]!r} already. Give another name: register({kind!r}, name=...)."
            )
        _PLUGGED[key] = Entry(kind, key[1], made, source)
        return made

    return mark


def load_plugin(path: Path) -> list[Entry]:
    """Run a user's file, and return what it has registered.

    Raises: InputError, with the plugin's line, if it is not there, cannot be run, or registers nothing.
    """
    if path.suffix != ".py" or not path.is_file():
        raise InputError(f"--plugin {path}: there is no such file; give a Python file, such as my_models.py.")
    name = f"understudy_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # it ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that its dataclasses find their module
    _LOADING.append(path.resolve())
    sys.path.insert(0, str(path.parent))  # so that it can import what lies beside it, as when it is run by itself
    try:
        spec.loader.exec_module(module)
        found = [e for e in _PLUGGED.values() if e.source == str(path.resolve())]
        for e in found:
            _ = e.options  # of which the types must be there to be read
    except InputError as error:
        raise InputError(f"--plugin {_line(path, error)}: {error}") from error
    except UnderstudyError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"--plugin {_line(path, error)}: cannot be run: {type(error).__name__}: {error}.") from error
    finally:
        sys.path.remove(str(path.parent))
        _LOADING.pop()
    if not found:
        raise InputError(
            f'--plugin {path}: registers nothing. Put @understudy.register("model") above what recipes may name.'
        )
    return found


def _line(path: Path, error: BaseException) -> str:
    """The plugin's own line in which it went wrong."""
    file = str(path.absolute())  # as the import system names it
    if isinstance(error, SyntaxError) and error.filename == file:
        return f"{path}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{path}:{lines[-1]}" if lines else str(path)
