"""From a template to a page that loads nothing and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from understudy.errors import MissingExtra
from understudy.report.words import fit

__all__ = ["rendered"]


def rendered(template: str, **parts: Any) -> str:
    """A page from one of this package's templates; whatever is put in is text, unless it says that it is markup.

    Raises: MissingExtra without jinja2.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtra("The page", "report") from error
    environment = Environment(
        loader=PackageLoader("understudy.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"digest": _digest, "fit": fit}
    html = environment.get_template(template).render(**parts)
    return html.encode("utf-8", "replace").decode()  # half of a surrogate pair cannot be written to a file


def _digest(script: str) -> str:
    """What names a script to a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(str(script).encode()).digest()).decode()
