from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import os
import re
import runpy
import shutil
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from report.chromium import Browser, browser
from understudy import outcome
from understudy.errors import CorruptError, InputError, MachineError
from understudy.export import TARGETS, graph, run_file, to_file, vendored, write_folder
from understudy.export.model import outputs
from understudy.recipe import running
from understudy.zoo import CNN

from .models import Text, digits_model, text, varied

LINEAR = torch.linspace(-2, 2, 20).reshape(5, 4)
FAKE = {name: f"what {name} holds".encode() for name in vendored.FILES}
FILES = [
    "index.html", "model.onnx", "ort/LICENSE.txt", "ort/ort-wasm-simd-threaded.js", "ort/ort-wasm-simd-threaded.wasm",
    "ort/ort.wasm.min.js", "page.css", "page.js", "predict.py", "preprocessing.json",
]  # fmt: skip
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package, unpacked, of other files than the real ones; and an empty cache."""
    digests = {name: hashlib.sha512(content).hexdigest() for name, content in FAKE.items()}
    monkeypatch.setattr(vendored, "FILES", digests)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    dist = tmp_path / "package" / "dist"
    dist.mkdir(parents=True)
    for name, content in FAKE.items():
        (dist / name).write_bytes(content)
    (dist / "other.js").write_text("not needed")
    return dist


@pytest.fixture(scope="module")
def linear_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("linear") / "m.onnx"
    torch.manual_seed(0)
    to_file(nn.Linear(4, 3), LINEAR, file)
    return file.read_bytes()


@pytest.fixture
def quick(linear_file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the exporter; the file is checked all the same."""
    monkeypatch.setattr(graph, "write", lambda model, inputs, file: file.write_bytes(linear_file))


def page(folder: Path, **more: Any) -> dict[str, float]:
    torch.manual_seed(0)
    return write_folder(folder, nn.Linear(4, 3), LINEAR, LINEAR, task_name="classification", target="web", **more)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# -- the folder --------------------------------------------------------------------------------------------------------


def test_a_page_has_all_that_it_asks_for(fake: Path, quick: None, tmp_path: Path) -> None:
    found = page(tmp_path / "site", vendor=fake)
    assert found["agreement"] == 1
    held = content(tmp_path / "site")
    assert sorted(held) == sorted(FILES)
    for name, theirs in FAKE.items():
        assert held[f"ort/{name.replace('.mjs', '.js')}"] == theirs
    html, script = held["index.html"].decode(), held["page.js"].decode()
    asked = {name for name in re.findall(r'(?:src|href)="([^"]+)"', html) if name != "data:,"}
    asked |= {f"ort/{name}" for name in re.findall(r"\$\{ORT\}([\w.-]+)", script)}
    asked |= set(re.findall(r'"((?:preprocessing|model)\.\w+)"', script))
    assert asked == set(FILES) - {"index.html", "predict.py", "ort/LICENSE.txt"}
    assert not re.search(r"https?://(?!localhost)|//[a-z]+\.", html + script.replace("http://localhost:8000", ""))
    assert vendored.VERSION in held["ort/LICENSE.txt"].decode()
    assert torch.equal(run_file(tmp_path / "site", LINEAR), run_file(tmp_path / "site" / "model.onnx", LINEAR))


def test_an_earlier_page_is_replaced_as_a_whole(fake: Path, quick: None, tmp_path: Path) -> None:
    page(tmp_path / "site", vendor=fake)
    before = content(tmp_path / "site")
    (tmp_path / "site" / "ort" / "old.js").write_text("of another version")
    page(tmp_path / "site", vendor=fake)
    assert content(tmp_path / "site") == before
    (tmp_path / "site" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match=r"holds mine\.txt"):
        page(tmp_path / "site", vendor=fake)


@pytest.mark.parametrize("name", FAKE)
def test_a_file_with_another_digest_is_refused_before_the_export(
    name: str, fake: Path, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page(tmp_path / "site", vendor=fake)  # the control: with the digests that are known
    before = content(tmp_path / "site")
    (fake / name).write_bytes(FAKE[name][:-1] + b"?")
    monkeypatch.setattr(graph, "write", lambda *_: pytest.fail("was exported"))
    for place in ("site", "new"):
        with pytest.raises(CorruptError, match=rf"{re.escape(name)} is not that of onnxruntime-web {vendored.VERSION}"):
            page(tmp_path / place, vendor=fake)
    assert content(tmp_path / "site") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["package", "site"]


def test_the_package_is_taken_unpacked_packed_or_as_it_was_installed(fake: Path, tmp_path: Path) -> None:
    installed = tmp_path / "node_modules" / vendored.NAME
    shutil.copytree(fake, installed / "dist")
    for given in (fake, fake.parent, tmp_path, packed(fake.parent, tmp_path / "p.tgz"), installed):
        assert vendored.vendored(given) == FAKE
    (tmp_path / "p.txt").write_text("no package")
    for given in (tmp_path / "none", tmp_path / "cache-of-others", tmp_path / "p.txt"):
        with pytest.raises(InputError, match=r"npm pack onnxruntime-web@\d.*--vendor"):
            vendored.vendored(given)


def test_the_digests_are_those_of_one_version() -> None:
    assert re.fullmatch(r"sha512-[\w+/]{86}==", vendored.INTEGRITY)
    assert all(re.fullmatch(r"[0-9a-f]{128}", digest) for digest in vendored.FILES.values())


# -- npm ---------------------------------------------------------------------------------------------------------------


def packed(package: Path, to: Path) -> Path:
    with tarfile.open(to, "w:gz") as opened:
        opened.add(package, "package")
    return to


@pytest.fixture
def npm(fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm that hands out the package above, and notes what it was asked."""
    if os.name == "nt":
        pytest.skip("the npm of this test is a shell script")
    package = packed(fake.parent, tmp_path / "x.tgz")
    digest = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    monkeypatch.setattr(vendored, "INTEGRITY", f"sha512-{digest}")
    script = tmp_path / "bin" / "npm"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncp {package} .\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
    return script


def asked(npm: Path) -> list[str]:
    return (npm.parents[1] / "asked").read_text().splitlines()


def test_npm_is_asked_once_and_a_damaged_cache_is_made_again(npm: Path) -> None:
    assert vendored.vendored() == FAKE
    assert vendored.vendored() == FAKE
    assert asked(npm) == [f"pack onnxruntime-web@{vendored.VERSION} --ignore-scripts --loglevel=error"]
    assert content(vendored.cache()) == FAKE
    (vendored.cache() / "ort.wasm.min.js").write_bytes(b"damaged")
    assert vendored.vendored() == FAKE
    assert len(asked(npm)) == 2
    assert content(vendored.cache()) == FAKE


def test_another_package_than_the_known_one_is_refused_and_not_kept(npm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vendored, "INTEGRITY", "sha512-another")
    with pytest.raises(CorruptError, match=r"what npm has fetched is not onnxruntime-web \d.*Nothing of it is kept"):
        vendored.vendored()
    assert len(asked(npm)) == 1
    assert not vendored.cache().exists()


def test_a_cache_that_cannot_be_written_is_gone_without(npm: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert vendored.vendored() == FAKE


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (r"#!/bin/sh\necho 'npm error code ENOTFOUND\nnpm error network request failed' >&2\nexit 1", "network request failed. Is there a network"),
        (r"#!/bin/sh\nexit 3", "it does not say why"),
        (r"#!/bin/sh\nexit 0", "npm has fetched no onnxruntime-web"),
        (None, "npm, which fetches onnxruntime-web .*, is not installed"),
    ],
)  # fmt: skip
def test_without_npm_or_a_network_it_says_what_to_give(
    script: str | None, told: str, npm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if script is None:
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        npm.write_text(script.encode().decode("unicode_escape"))
    monkeypatch.setattr(graph, "write", lambda *_: pytest.fail("was exported"))
    with pytest.raises(MachineError, match=rf"{told}.*--vendor PATH") as caught:
        page(tmp_path / "site")
    assert caught.value.exit_code == 4
    with pytest.raises(MachineError, match=told):  # a recipe's page, before anything is trained
        running.fetched({"export": {"target": "web"}})
    assert not (tmp_path / "site").exists()
    assert not vendored.cache().exists()
    running.fetched({"export": "deploy"})
    running.fetched({"export": None})


# -- what cannot be ----------------------------------------------------------------------------------------------------


def test_a_page_is_no_file_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="web is a folder, and no file alone"):
        to_file(nn.Linear(4, 3), LINEAR, tmp_path / "m.onnx", target="web")
    with pytest.raises(InputError, match=r"m\.onnx ends in '\.onnx'; give the name of a folder, without an ending"):
        outcome._form(tmp_path / "m.onnx", "web")
    assert outcome._form(tmp_path / "m", "web") == ("web", TARGETS["web"])
    assert outcome._form(tmp_path / "m.onnx", None)[0] == "onnx"


def test_what_the_page_cannot_make_is_refused(fake: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"export of Linear to the web: input is float16.*Export model\.float"):
        write_folder(
            tmp_path / "s", nn.Linear(4, 3).half(), LINEAR.half(), LINEAR.half(), task_name="classification",
            target="web", vendor=fake, tolerance=1e-2,
        )  # fmt: skip
    with pytest.raises(InputError, match=r"vendor: onnx needs none\. It is for: web"):
        write_folder(tmp_path / "s", nn.Linear(4, 3), LINEAR, LINEAR, task_name="regression", vendor=fake)
    assert not (tmp_path / "s").exists()


def test_weights_beside_the_graph_are_refused(fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "write", lambda model, inputs, file: file.with_name("model.onnx.data").write_bytes(b""))
    with pytest.raises(InputError, match="over 2 GB, which a browser does not load"):
        page(tmp_path / "s", vendor=fake)
    assert not (tmp_path / "s").exists()


# -- in Chromium -------------------------------------------------------------------------------------------------------


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """What ``python -m http.server`` does."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    with browser(CHROMIUM, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


def needs_npm() -> None:
    try:
        vendored.vendored()
    except MachineError as error:
        pytest.skip(str(error))


def array(x: np.ndarray, kind: str = "Float32Array") -> str:
    """An expression for it, with its shape."""
    coded = base64.b64encode(x.tobytes()).decode()
    return f"new {kind}(Uint8Array.from(atob('{coded}'), (c) => c.charCodeAt(0)).buffer), {list(x.shape)}"


def said(tab: Browser, x: Tensor) -> tuple[list[int], np.ndarray]:
    entries = tab.js(f"understudy.predict({array(x.numpy())})")
    return [e["index"] for e in entries], np.array([e["probabilities"] for e in entries])


def a_page(folder: Path, model: nn.Module, samples: Any, **more: Any) -> None:
    needs_npm()
    few = {k: x[:2] for k, x in samples.items()} if isinstance(samples, dict) else samples[:2]
    write_folder(folder, model, few, samples, task_name="classification", target="web", **more)


@pytest.mark.long
def test_the_page_says_what_python_says_and_how_long_it_takes(tab: Browser, tmp_path: Path) -> None:
    student, images = digits_model(), varied(256)
    a_page(tmp_path / "site", student, images, classes=[f"<b>{k}</b>" for k in range(10)])
    expected = outputs(student, images)
    for width, scheme in ((1280, "light"), (390, "dark")):
        with served(tmp_path / "site") as address:
            tab.open(address, width=width, scheme=scheme)
            tab.js("understudy.ready")
            classes, probabilities = said(tab, images)
            assert classes == expected.argmax(1).tolist()
            assert len(set(classes)) > 1
            assert np.allclose(probabilities, expected.softmax(1).numpy(), rtol=0, atol=1e-5)
            assert said(tab, images.flip(3))[1].tolist() != probabilities.tolist()  # the control
            p50 = tab.js("understudy.figures.latency_ms_p50")
            assert p50 > 0
            assert tab.js("understudy.figures.runs") == 100
            shown = tab.js("document.body.innerText")
            assert float(re.search(r"Latency, p50\s+([\d.]+) ms", shown)[1]) == pytest.approx(p50, rel=0.05)  # type: ignore[index]
            assert "14.2 MB" in shown
            assert "agreement 100.00 %" in shown
            assert tab.js("[crossOriginIsolated, getComputedStyle(document.body).colorScheme]") == [False, scheme]
            assert tab.js("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
            give(tab, array(images.numpy()), "x.npy")
            assert tab.js("document.querySelectorAll('#answers li').length") == 50
            assert tab.js("document.querySelector('#answers .best').textContent") == f"<b>{classes[0]}</b>"
            assert tab.complaints == []
            assert {request.startswith((address, "blob:")) for request in tab.requests} == {True}


def give(tab: Browser, values: str, name: str) -> None:
    """Choose an array as a .npy file."""
    tab.js(
        f"""(async () => {{
      const [data, shape] = ((...given) => given)({values});
      const head = `{{'descr': '<f4', 'fortran_order': False, 'shape': (${{shape}},), }}`.padEnd(117) + "\\n";
      const start = Uint8Array.from([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, head.length, 0]);
      await chosen([new File([start, head, data], "{name}")]);
    }})()""".replace("await chosen(", CHOSEN)
    )


CHOSEN = """await (async (files) => {
  const list = new DataTransfer();
  for (const file of files) list.items.add(file);
  document.getElementById("answers").replaceChildren();
  document.getElementById("wrong").hidden = true;
  document.getElementById("file").files = list.files;
  document.getElementById("file").dispatchEvent(new Event("change"));
  while (!document.querySelector("#answers li") && document.getElementById("wrong").hidden) await new Promise((go) => setTimeout(go, 10));
})("""


@pytest.mark.long
def test_pictures_are_read_as_read_raw_reads_them(tab: Browser, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    smooth = image.fromarray(rng.integers(0, 256, (9, 13, 3), np.uint8)).resize((130, 90), image.Resampling.BICUBIC)
    smooth.save(tmp_path / "wide.png")
    smooth.convert("L").resize((11, 30)).save(tmp_path / "high.png")
    image.fromarray(rng.integers(0, 256, (40, 40, 4), np.uint8)).save(tmp_path / "clear.png")
    for channels, mean, std in ((1, None, None), (3, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]), (3, 0.5, 0.25)):
        raw = {
            "kind": "pictures",
            "size": [16, 20],
            "channels": channels,
            "suffixes": [".png"],
            "mean": mean,
            "std": std,
        }
        folder = tmp_path / f"site{channels}{type(mean).__name__}"
        a_page(folder, CNN(4, classes=3, inputs=channels), torch.rand(4, channels, 16, 20), raw=raw)
        opened = runpy.run_path(str(folder / "read_raw.py"))["pictures"]
        for name in ("wide.png", "high.png", "clear.png"):
            shutil.copy(tmp_path / name, folder)
            with served(folder) as address:
                tab.open(address)
                made = tab.js(f"""(async () => {{
                  const given = await understudy.samples(new File([await (await fetch("{name}")).blob()], "{name}"));
                  return [given.shape, Array.from(given.data)];
                }})()""")
            expected, _ = opened(folder / name, raw)
            assert made[0] == list(expected.shape)
            levels = 255 * (1 if std is None else np.broadcast_to(std, channels)[:, None, None])
            off = np.abs(np.array(made[1]).reshape(expected.shape) - expected) * levels
            # Versions of Pillow differ in which axis they scale first, and round in between.
            assert off.max() < 1.01
            assert off.mean() < 0.25
            assert (np.abs(expected - expected[..., ::-1]) * levels).mean() > 5  # the control: it is no even grey
            assert tab.complaints == []


@pytest.mark.long
def test_a_table_is_read_with_the_values_of_training_and_what_is_wrong_is_told(tab: Browser, tmp_path: Path) -> None:
    columns = [
        {"name": "size, cm", "mean": 2.0, "std": 4.0},
        {"name": "kind", "values": ["a", "b"]},
        {"name": "even", "mean": 1.0, "std": 0.0},
    ]
    raw = {"kind": "csv", "delimiter": ",", "columns": columns}
    a_page(tmp_path / "site", nn.Linear(4, 3), LINEAR, raw=raw, classes=["x", "y", "z"])
    (tmp_path / "site" / "t.csv").write_text(
        '\ufeffeven,"size, cm",kind\n1, 6 ,a\n\n?,NA,"c"\n2,-2e0,b\n', encoding="utf-8"
    )
    expected, names = runpy.run_path(str(tmp_path / "site" / "read_raw.py"))["table"](tmp_path / "site" / "t.csv", raw)
    with served(tmp_path / "site") as address:
        tab.open(address)
        made = tab.js("""(async () => {
          const given = await understudy.samples(new File([await (await fetch("t.csv")).blob()], "t.csv"));
          return [given.shape, Array.from(given.data), given.names];
        })()""")
        assert (made[0], made[2]) == (list(expected.shape), names)
        assert np.array_equal(np.array(made[1], np.float32).reshape(expected.shape), expected)
        for text, told in (
            ("even,kind\\n1,a", "it has no column size, cm"),
            ('even,"size, cm",kind\\n1,tall,a', "line 2: size, cm: 'tall' is not a number"),
            ('even,"size, cm",kind\\n1,2', "no sample, or lines of other lengths"),
        ):
            tab.js(f"(async () => {{ {CHOSEN}[new File(['{text}'], 't.csv')]); }})()")
            assert told in tab.js("document.getElementById('wrong').textContent")
        give(tab, array(np.ones((2, 5), np.float32)), "t.npy")
        assert (
            tab.js("document.getElementById('wrong').textContent")
            == "The samples have the shape [5], but [4] is needed."
        )
        assert tab.complaints == []


@pytest.mark.long
def test_inputs_are_prepared_and_named_as_in_predict(tab: Browser, tmp_path: Path) -> None:
    student, images = digits_model(channels=3), torch.rand(5, 3, 8, 8)
    steps = {"layout": "channels_last", "scale": 1 / 255, "mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}
    a_page(tmp_path / "site", student, images, preprocessing=steps)
    stored = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    prepare = runpy.run_path(str(tmp_path / "site" / "predict.py"))["prepare"]
    facts = json.loads((tmp_path / "site" / "preprocessing.json").read_text())
    expected = outputs(student, torch.from_numpy(np.ascontiguousarray(prepare(stored, facts["inputs"]["input"]))))
    with served(tmp_path / "site") as address:
        tab.open(address)
        entries = tab.js(f"understudy.predict({array(stored, 'Uint8Array')})")
    assert [e["index"] for e in entries] == expected.argmax(1).tolist()
    assert np.allclose([e["probabilities"] for e in entries], expected.softmax(1).numpy(), rtol=0, atol=1e-5)

    samples = text(270)
    a_page(tmp_path / "words", Text(), samples)
    logits = outputs(Text(), samples)
    with served(tmp_path / "words") as address:
        tab.open(address)
        given = {"ids": array(samples["ids"].numpy(), "BigInt64Array"), "mask": array(samples["mask"].numpy())}
        make = ", ".join(f"{name}: ((data, shape) => ({{ data, shape }}))({values})" for name, values in given.items())
        entries = tab.js(f"understudy.predict({{ {make} }})")
        assert "ids, mask" in tab.js("document.getElementById('count').textContent")
        assert [e["index"] for e in entries] == logits.argmax(1).tolist()
        assert tab.complaints == []


@pytest.mark.long
def test_from_the_disk_the_page_says_how_to_serve_it(tab: Browser, tmp_path: Path) -> None:
    a_page(tmp_path / "site", nn.Linear(4, 3), LINEAR)
    tab.open(tmp_path / "site" / "index.html")
    tab.js("understudy.ready.catch(() => 0)")
    assert "python -m http.server" in tab.js("document.getElementById('state').innerText")
    assert tab.complaints == []


@pytest.mark.long
def test_the_check_of_complaints_sees_a_page_that_asks_elsewhere(tab: Browser, tmp_path: Path) -> None:
    a_page(tmp_path / "site", nn.Linear(4, 3), LINEAR)
    script = tmp_path / "site" / "page.js"
    script.write_text(script.read_text() + 'fetch("http://127.0.0.2:9/x").catch(() => 0);')
    with served(tmp_path / "site") as address:
        tab.open(address)
        tab.js("understudy.ready")
        assert any("Content Security Policy" in told for told in tab.complaints)
        (tmp_path / "site" / "ort" / "ort-wasm-simd-threaded.js").unlink()
        tab.open(address)
        tab.js("understudy.ready.catch(() => 0)")
        assert "cannot run in this browser" in tab.js("document.getElementById('state').innerText")
