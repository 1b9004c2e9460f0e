"""Image classifiers of transformers, made from a configuration: random weights, nothing fetched, no foreign code."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from understudy.errors import InputError, MachineError, MissingExtra, choices, raise_all
from understudy.zoo.limits import check_parameters, check_sizes

__all__ = ["from_config"]

Plain = int | float | bool | str
MOST, MOST_LAYERS = 65_536, 200
"""Of a number, and of one that counts layers: making those takes time, however narrow they are."""

LAYERS = re.compile(r"layer|depth|block|repeat")
WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
"""What a text may be: the name of an activation or a kind of layer. A path or an id on the hub has more to it."""

OUTSIDE = re.compile(
    r"^_|auto_map|backbone|implementation|kernel_config|name_or_path|pretrained_model|quantization|remote|dtype|_config$"
)
"""Keys by which transformers may fetch, import or run something that is not its own, or leave float32.

A configuration's class does not have most of them, and what it does not have is refused anyway. But a class of a
version to come may.
"""


def from_config(
    type: str,
    classes: int,
    config: Mapping[str, Plain | Sequence[Plain | Sequence[Plain]]] | None = None,
    inputs: int | None = None,
    size: int | tuple[int, int] | None = None,
) -> nn.Module:
    """An image classifier of Hugging Face transformers, with random weights: made from a configuration, not fetched.

    Args:
        type: what transformers calls the architecture: vit, resnet, convnext, swin, mobilenet_v2, ...
        classes: outputs.
        config: what differs from the architecture's defaults, such as ``{hidden_size: 64, num_hidden_layers: 4}``; for its
            keys see the architecture's configuration class in the documentation of transformers.
        inputs: channels of the image; sets ``num_channels``.
        size: of the images, the side of a square or (rows, columns), for architectures that are made for one size; sets
            ``image_size``.

    Raises: InputError for what transformers does not know, or what is not to be set; MissingExtra without transformers.
    """
    where = f"from_config {type!r}"
    lists = {"size": size} if isinstance(size, tuple | list) else {}
    sizes = {
        name: value for name, value in (("inputs", inputs), ("size", size)) if value is not None and name not in lists
    }
    check_sizes(where, {"classes": classes, **sizes}, lists)
    library = _library(where)
    kind, made_by = _kind(library, where, type)
    general = _arguments(library.PreTrainedConfig)
    own = [name for name in _arguments(kind) if name not in general and not OUTSIDE.search(name)]
    given = dict(config or {})
    raise_all(InputError, list(_problems(where, given, own)))
    for key, value in (("num_channels", inputs), ("image_size", size)):
        if value is not None and key in own:
            value = _sides(kind, value) if key == "image_size" else value
            if given.setdefault(key, value) != value:
                told = (
                    f"{where}: config says {key}={given[key]!r}, and the images have {value!r}. Leave it out of config."
                )
                raise InputError(told)
    try:
        with torch.device("meta"):
            parameters = sum(p.numel() for p in made_by(kind(**given, num_labels=classes)).parameters())
        check_parameters(where, parameters)
        model: nn.Module = made_by(kind(**given, num_labels=classes))
    except InputError:
        raise
    except ImportError as error:
        raise MachineError(f"{where}: needs a package that is not installed: {_line(error)}") from error
    except Exception as error:  # whatever a combination of sizes leads the library to
        raise InputError(f"{where}: transformers cannot make it of {given}: {_line(error)}") from error
    return model


def _library(where: str) -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise MissingExtra(where, "transformers") from error


def _kind(library: Any, where: str, name: str) -> tuple[Any, Any]:
    """The configuration's class, and the classifier's."""
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    known = dict(auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES)
    known.pop("timm_wrapper", None)  # another library's models, by names that may be fetched
    classes: Any = library.CONFIG_MAPPING
    if isinstance(name, str) and name in known and _takes_pixels(classes[name]):
        model = known[name]
        return classes[name], getattr(library, model if isinstance(model, str) else model[0])
    allowed = [other for other in known if other in classes and _takes_pixels(classes[other])]
    raise InputError(
        f"{where}: transformers has no classifier of images that is called so. {choices(name, allowed, most=99)}"
    )


def _takes_pixels(kind: Any) -> bool:
    """Whether it is for images of so many channels; others are for text as well, or for what is no tensor of pixels."""
    return "num_channels" in _arguments(kind)


def _arguments(kind: Any) -> list[str]:
    return [name for name in inspect.signature(kind.__init__).parameters if name not in ("self", "kwargs")]


def _problems(where: str, given: Mapping[str, Any], own: Sequence[str]) -> Iterator[str]:
    for key, value in given.items():
        if key in ("num_labels", "id2label", "label2id"):
            yield f"{where}: config: {key!r} follows from the classes. Leave it out."
        elif key not in own:
            yield f"{where}: config: there is no key {key!r} that may be set. {choices(key, own)}"
        elif (wrong := _wrong(key, value)) is not None:
            yield f"{where}: config: {key}={value!r:.60} is not allowed; {wrong}."


def _wrong(key: str, value: Any, depth: int = 0) -> str | None:
    """What is wrong with a value; None if nothing is."""
    if isinstance(value, str):
        return None if WORD.fullmatch(value) else "give a plain word"
    if isinstance(value, int | float):
        most = MOST_LAYERS if LAYERS.search(key) else MOST
        return None if -most <= value <= most else f"give a number up to {most:,}"
    if isinstance(value, list | tuple) and depth < 2 and len(value) <= MOST_LAYERS:
        return next((wrong for v in value if (wrong := _wrong(key, v, depth + 1)) is not None), None)
    return "give a number, a word, true or false, or a list of them"


def _sides(kind: Any, size: Any) -> Any:
    """A size as this architecture takes it: one number for a square, unless it starts from two."""
    sides = [size, size] if isinstance(size, int) else list(size)
    default = inspect.signature(kind.__init__).parameters["image_size"].default
    return sides if isinstance(default, list | tuple) or callable(default) or sides[0] != sides[1] else sides[0]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") + "."
