"""From what a model or a batch holds to the one tensor that an address names in it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from understudy.address import Address
from understudy.batch import Batch
from understudy.errors import AddressError, choices

__all__ = ["named_tensor", "read_batch"]


def read_batch(batch: Batch, address: Address) -> Tensor:
    """The batch's tensor at an address; AddressError if there is none."""
    value: Any = batch.fields
    for name in address.module.split(".") if address.module else ():
        value = _step(value, name, address)
    return named_tensor(value, address)


def named_tensor(value: Any, address: Address) -> Tensor:
    """The tensor behind the address's keys.

    Of a container that is its ``logits``, or the only tensor in it; anything else is an AddressError that lists the keys.
    """
    value = functools.reduce(lambda v, key: _step(v, key, address), address.keys, value)
    if isinstance(value, Tensor):
        return value
    items = _items(value)
    if isinstance(items.get("logits"), Tensor):
        return items["logits"]  # type: ignore[no-any-return]
    found = [item for item in items.values() if isinstance(item, Tensor)]
    if len(found) == 1:
        return found[0]
    hint = f"pick one: {', '.join(f'{address}/{k}' for k in items)}." if items else "an address names a tensor."
    raise AddressError(f"address '{address}': found a {type(value).__name__}, not a tensor; {hint}")


def _items(container: Any) -> dict[Any, Any]:
    if isinstance(container, Mapping):
        return dict(container)
    return dict(enumerate(container)) if isinstance(container, (tuple, list)) else {}


def _step(value: Any, key: str | int, address: Address) -> Any:
    """One key deeper: a mapping's field or its n-th, a sequence's n-th, an object's attribute."""
    if isinstance(value, Mapping):
        for name in (key, str(key)):
            if name in value:
                return value[name]
        if isinstance(key, int) and -len(value) <= key < len(value):
            return list(value.values())[key]
        what = "batch" if address.of_batch else str(address)
        raise AddressError(f"address '{address}': {what} has no field {key!r}. {choices(key, value)}")
    if isinstance(key, int) and isinstance(value, (tuple, list)):
        if -len(value) <= key < len(value):
            return value[key]
        raise AddressError(f"address '{address}': there is no item {key} among {len(value)}.")
    if isinstance(key, str) and not isinstance(value, Tensor) and hasattr(value, key):
        return getattr(value, key)
    raise AddressError(f"address '{address}': a {type(value).__name__} has no {key!r}.")
