"""Teachers that others have trained, by their name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from understudy.errors import CorruptError, InputError, MachineError, MissingExtra, UnderstudyError, choices

__all__ = ["hf", "named_model", "timm"]


def named_model(name: str) -> nn.Module:
    """A trained model by its name, in eval mode.

    ================  =============================================================================================
    name              model
    ================  =============================================================================================
    ``timm:NAME``     of timm, with its trained weights: ``timm:resnet18``, ``timm:resnet18.a1_in1k``, ``timm:local-dir:FOLDER``
    ``hf:FOLDER``     of transformers, as ``save_pretrained`` wrote it, in the class that its config.json names
    ``hf:OWNER/ID``   the same from the Hugging Face hub: what was fetched before, else over the network
    ================  =============================================================================================

    Only weights are read: code that comes with a model is never run.

    Raises: InputError for a name that is unknown, or a model without trained weights or with code of its own; CorruptError
        for damaged weights; MissingExtra without timm or transformers; MachineError if it cannot be fetched.
    """
    source, colon, rest = name.partition(":")
    if not colon or source not in _SOURCES:
        near = (
            choices(f"{source}:", [f"{known}:" for known in _SOURCES])
            if colon
            else f"Is it 'timm:{name}' or 'hf:{name}'?"
        )
        raise InputError(f"model {name!r}: allowed: timm:NAME, or hf: with a folder or an id. {near}")
    if not rest:
        raise InputError(
            f"model {name!r}: has no name after the colon; allowed: timm:resnet18, hf:google/vit-base-patch16-224."
        )
    return _SOURCES[source](rest).eval()


def hf(model: Path | str) -> nn.Module:
    """A trained model of transformers, from a folder or from what was fetched before.

    Args:
        model: a folder that ``save_pretrained`` wrote, or OWNER/ID of the Hugging Face hub.
    """
    return named_model(f"hf:{model}")


def timm(model: str) -> nn.Module:
    """A trained model of timm.

    Args:
        model: as timm calls it, such as ``resnet18.a1_in1k``, or ``local-dir:FOLDER``.
    """
    return named_model(f"timm:{model}")


def _of_timm(name: str) -> nn.Module:
    where = f"model 'timm:{name}'"
    timm = _imported("timm", where, "timm")
    base = name.partition(".")[0]
    if ":" not in name and not timm.is_model(base):
        raise InputError(f"{where}: timm has no such model. {choices(base, timm.list_models(), most=0)}")
    try:
        made: nn.Module = timm.create_model(name, pretrained=True)
    except Exception as error:  # of timm, of the hub, of the network below it
        raise _failed(where, error) from error
    return made


def _of_transformers(name: str) -> nn.Module:
    where = f"model 'hf:{name}'"
    transformers = _imported("transformers", where, "transformers")
    folder = Path(name).expanduser()
    if not folder.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        near = [p.name for p in folder.parent.glob("*")] if folder.parent.is_dir() else []
        raise InputError(f"{where}: there is no such folder. {choices(folder.name, sorted(near))}")
    try:
        if folder.is_dir():
            return _pretrained(transformers, where, str(folder), True)
        try:
            return _pretrained(transformers, where, name, True)
        except OSError:  # not all of it has been fetched before
            return _pretrained(transformers, where, name, False)
    except UnderstudyError:
        raise
    except Exception as error:
        raise _failed(where, error, local=folder.is_dir()) from error


def _pretrained(transformers: Any, where: str, name: str, local: bool) -> nn.Module:
    options: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
    config = transformers.AutoConfig.from_pretrained(name, **options)
    architecture = (config.architectures or [None])[0]
    if architecture is None:
        raise InputError(f"{where}: its config.json names no architecture. Load it yourself and give the module.")
    kind: Any = getattr(transformers, architecture, None)
    is_model = inspect.isclass(kind) and issubclass(kind, transformers.PreTrainedModel)  # a file may name anything
    if not is_model:
        raise InputError(
            f"{where}: transformers {transformers.__version__} has no model {architecture!r}. Code that comes with a model "
            "is never run; update transformers, or load it yourself and give the module."
        )
    model: nn.Module
    options |= {"weights_only": True, "ignore_mismatched_sizes": True, "output_loading_info": True}  # told below
    model, report = kind.from_pretrained(name, config=config, **options)
    if drawn := sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}):
        raise InputError(
            f"{where}: has no trained weights for {', '.join(drawn[:4])}{', ...' * (len(drawn) > 4)} ({len(drawn)} in all) of "
            f"{architecture}; they would be random. Train it further and save it, or name a model of this task."
        )
    return model


def _imported(module: str, where: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise _failed(where, error) from error
        raise MissingExtra(where, extra) from error
    except (ImportError, RuntimeError) as error:
        raise _failed(where, error) from error


def _failed(where: str, error: Exception, local: bool = False) -> UnderstudyError:
    """What others' libraries raise, in our words: whose fault it is, and what to do."""
    text = " ".join(str(error).split())[:300].rstrip(".")
    if "torchvision::" in text:  # its operators are registered with the torch that it was built for
        return MachineError(
            f"{where}: torchvision cannot be imported beside torch {torch.__version__} ({text}). It was built for another "
            "torch. Fix: install both from the same index: pip install torch torchvision"
        )
    if isinstance(error, ImportError):
        return MachineError(f"{where}: cannot be imported: {text}. Install it anew with all that it needs.")
    if type(error).__name__ in ("SafetensorError", "UnpicklingError", "BadZipFile", "EOFError", "JSONDecodeError"):
        return CorruptError(f"{where}: its files are damaged, or hold code, which is never run: {text}.")
    if not local and (isinstance(error, ConnectionError | TimeoutError) or "connect" in text.lower()):
        return MachineError(f"{where}: could not be fetched: {text}. Connect, or give a folder that has it.")
    return InputError(f"{where}: {text}.")


_SOURCES: dict[str, Callable[[str], nn.Module]] = {"timm": _of_timm, "hf": _of_transformers}
