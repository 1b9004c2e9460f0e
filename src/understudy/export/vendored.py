"""The files of onnxruntime-web, which a page runs its model with: from a folder, the cache, or npm's package index."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path

from understudy.errors import CorruptError, InputError, MachineError
from understudy.export.staging import publish_folder, staged
from understudy.writing import disk

__all__ = ["FILES", "INTEGRITY", "NAME", "VERSION", "cache", "vendored"]

NAME, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package, as npm's index gives it."""
FILES = {
    "ort.wasm.min.js": "11dcea7c13ee93bc912dfcdd7a955ddc1cbef976b6db5208ee0fc65cf0fcfc618797919c6f3440940d6885d3508217943f9e887ec200fefe204da81778a93f12",
    "ort-wasm-simd-threaded.mjs": "21ba108743f06fed82bd495a1258e50552c95a515f1940b10aab94ea48f2c205beaa3f7e0d9b4961253da6e786638038bd3d96e6b43c66de0234d2032fc29fd6",
    "ort-wasm-simd-threaded.wasm": "1adeded62203219fcf5c484cfce5657aa5875689b490423f86cf1ca1dd1cad7715f630c6337f41db71ee42794e3a00ce0b7c78939a71220b5d83368bf6ea7730",
}
"""Those of its ``dist`` that are needed, with their SHA-512."""
PATIENCE = 600
GIVE = (
    f"Get the package elsewhere (npm pack {NAME}@{VERSION}) and name it, or a folder that it was unpacked to: "
    "understudy export RUN --target web --vendor PATH, in Python vendor=."
)


def vendored(given: str | Path | None = None) -> dict[str, bytes]:
    """The files by name, every one of them with the digest that is known here.

    Args:
        given: the package as npm packs it, or a folder: of the unpacked package, or of the files themselves. If left out,
            the cache is looked into, and what is not there, or damaged, is fetched by npm, once.

    Raises: InputError if what was given does not hold the files; CorruptError if they are others; MachineError without npm or a
        network.
    """
    if given is not None:
        return _checked(Path(given), _given(Path(given)))
    with suppress(InputError, CorruptError, OSError):  # nothing there yet, or half of it: it is fetched again
        return _checked(cache(), _in_folder(cache()))
    files = _fetched()
    with suppress(MachineError):  # no room for a cache is no reason not to go on
        _keep(files)
    return files


def cache() -> Path:
    """Where what was fetched is kept, for this version."""
    return _caches() / "understudy" / f"{NAME}-{VERSION}"


def _caches() -> Path:
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given)
    try:
        return Path("~/.cache").expanduser()
    except RuntimeError:  # a user without a home, as containers have them
        return Path(tempfile.gettempdir())


def _keep(files: dict[str, bytes]) -> None:
    with staged(cache()) as new:
        for name, content in files.items():
            (new / name).write_bytes(content)
        publish_folder(new, cache())


def _given(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return _unpacked(path)
    if not path.is_dir():
        raise InputError(f"vendor: {path}: there is no such folder or package. {GIVE}")
    return _in_folder(path)


def _in_folder(folder: Path) -> dict[str, bytes]:
    for within in (folder, folder / "dist", folder / "package" / "dist", folder / "node_modules" / NAME / "dist"):
        if all((within / name).is_file() for name in FILES):
            with disk(folder):
                return {name: (within / name).read_bytes() for name in FILES}
    raise InputError(f"vendor: {folder}: does not hold {', '.join(FILES)}. {GIVE}")


def _unpacked(package: Path) -> dict[str, bytes]:
    try:
        with tarfile.open(package) as opened:
            parts = {name: opened.extractfile(f"package/dist/{name}") for name in FILES}
            return {name: part.read() for name, part in parts.items() if part is not None}
    except (tarfile.TarError, EOFError, OSError, KeyError) as error:
        raise InputError(f"vendor: {package}: is not the package {NAME}: {error}. {GIVE}") from error


def _checked(where: Path, files: dict[str, bytes]) -> dict[str, bytes]:
    for name, digest in FILES.items():
        if hashlib.sha512(files.get(name, b"")).hexdigest() != digest:
            raise CorruptError(
                f"vendor: {where}: {name} is not that of {NAME} {VERSION} (its SHA-512 is another). Nothing was written. {GIVE}"
            )
    return files


def _fetched() -> dict[str, bytes]:
    npm = shutil.which("npm")
    if npm is None:
        raise MachineError(f"export to the web: npm, which fetches {NAME} {VERSION}, is not installed. {GIVE}")
    with tempfile.TemporaryDirectory() as folder:
        _pack(npm, Path(folder))
        packages = list(Path(folder).glob("*.tgz"))
        if len(packages) != 1:
            raise MachineError(f"export to the web: npm has fetched no {NAME} {VERSION}. {GIVE}")
        digest = base64.b64encode(hashlib.sha512(packages[0].read_bytes()).digest()).decode()
        if f"sha512-{digest}" != INTEGRITY:
            raise CorruptError(
                f"export to the web: what npm has fetched is not {NAME} {VERSION} (its SHA-512 is another). Nothing of it is kept. {GIVE}"
            )
        return _checked(Path(f"{NAME}-{VERSION}.tgz"), _unpacked(packages[0]))


def _pack(npm: str, folder: Path) -> None:
    command = [npm, "pack", f"{NAME}@{VERSION}", "--ignore-scripts", "--loglevel=error"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"export to the web: npm cannot fetch {NAME} {VERSION}: {error}. {GIVE}") from error
    if done.returncode:
        said = [line.removeprefix("npm error ").strip() for line in done.stderr.splitlines() if "npm error" in line]
        told = next(
            (line for line in said if not line.startswith(("code ", "errno ", "syscall "))), "it does not say why"
        )
        raise MachineError(f"export to the web: npm cannot fetch {NAME} {VERSION}: {told}. Is there a network? {GIVE}")
