import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from understudy.errors import CorruptError, InputError, MachineError, MissingExtra
from understudy.teachers import named_model

torch.set_num_threads(1)


# -- timm, by a stand-in: its own import needs torchvision --------------------------------------------------------------


def stand_in(create_model: Callable[..., Any]) -> types.ModuleType:
    timm: Any = types.ModuleType("timm")
    names = ["resnet18", "resnet34", "vit_tiny"]
    timm.create_model, timm.list_models = create_model, lambda: names
    timm.is_model = lambda name: name in names
    return timm  # type: ignore[no-any-return]


def fails(error: Exception) -> Callable[..., Any]:
    def create(*args: Any, **kwargs: Any) -> Any:
        raise error

    return create


def test_a_model_of_timm_comes_trained_and_in_eval_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def create(name: str, **options: Any) -> nn.Module:
        asked.append((name, options))
        return nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()

    monkeypatch.setitem(sys.modules, "timm", stand_in(create))
    for name in ("resnet18", "resnet18.a1_in1k", "local-dir:somewhere"):
        model = named_model(f"timm:{name}")
        assert not any(m.training for m in model.modules())
        assert asked.pop() == (name, {"pretrained": True})


def test_a_name_that_timm_does_not_know_is_told_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", stand_in(fails(AssertionError())))
    with pytest.raises(InputError, match=r"model 'timm:resnet81\.x': timm has no such model\. Did you mean 'resnet18'"):
        named_model("timm:resnet81.x")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            RuntimeError("No pretrained weights exist for resnet18."),
            InputError,
            r"No pretrained weights exist for resnet18\.$",
        ),
        (
            OSError("cannot\n  connect to the hub"),
            MachineError,
            "could not be fetched: cannot connect to the hub.*give a folder",
        ),
        (ConnectionError("refused"), MachineError, "could not be fetched: refused"),
        (TimeoutError("late"), MachineError, "could not be fetched: late"),
        (
            safetensors.SafetensorError("header"),
            CorruptError,
            "its files are damaged, or hold code, which is never run: header",
        ),
        (RuntimeError("operator torchvision::nms does not exist"), MachineError, "pip install torch torchvision"),
    ],
    ids=repr,
)
def test_what_goes_wrong_in_timm_is_told_with_whose_fault_it_is(
    error: Exception, kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", stand_in(fails(error)))
    with pytest.raises(kind, match=rf"(?s)^model 'timm:resnet18': .*{message}") as caught:
        named_model("timm:resnet18")
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (
            "raise RuntimeError('operator torchvision::nms does not exist')",
            MachineError,
            "beside torch .*nms does not exist",
        ),
        ("import no_such_package", MachineError, "cannot be imported: No module named 'no_such_package'"),
        ("from json import no_such_name", MachineError, "cannot be imported: cannot import name"),
    ],
)
def test_a_package_that_is_there_but_cannot_be_imported_is_not_called_missing(
    tmp_path: Path, body: str, kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "timm.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(kind, match=message) as caught:
        named_model("timm:resnet18")
    assert not isinstance(caught.value, MissingExtra)


@pytest.mark.parametrize(("name", "extra"), [("timm:resnet18", "timm"), ("hf:some/model", "transformers")])
def test_a_package_that_is_missing_is_told_with_what_to_install(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, extra, None)
    with pytest.raises(MissingExtra, match=rf"model '{name}' needs .*understudy\[{extra}\]"):
        named_model(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", r"allowed: timm:NAME, or hf: .* Is it 'timm:resnet18' or 'hf:resnet18'"),
        ("tim:resnet18", r"Did you mean 'timm:'"),
        ("torchvision:resnet18", r"Allowed: timm:, hf:"),
        ("timm:", "has no name after the colon"),
        ("hf:", "has no name after the colon"),
    ],
)
def test_a_name_of_another_form_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        named_model(name)


# -- transformers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny classifier as save_pretrained writes it, and the model itself."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=3,
        max_position_embeddings=16,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    folder = tmp_path_factory.mktemp("model") / "bert"
    model.save_pretrained(folder)
    return folder, model


@pytest.fixture
def folder(saved: Any, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    for file in saved[0].iterdir():
        (tmp_path / "bert").mkdir(exist_ok=True)
        (tmp_path / "bert" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "bert"


def edited(folder: Path, **entries: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.long
def test_a_folder_gives_the_class_that_its_config_names_with_its_weights(saved: Any, folder: Path) -> None:
    model = named_model(f"hf:{folder}")
    assert type(model).__name__ == "BertForSequenceClassification"
    assert not any(m.training for m in model.modules())
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, saved[1](ids).logits)
    edited(folder, architectures=["BertModel"])
    assert type(named_model(f"hf:{folder}")).__name__ == "BertModel"


@pytest.mark.long
def test_weights_that_would_be_random_are_refused_by_name(folder: Path) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    kept = {name: t for name, t in weights.items() if not name.startswith("classifier")}
    safetensors.torch.save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"no trained weights for classifier\.bias, classifier\.weight \(2 in all\)"):
        named_model(f"hf:{folder}")


@pytest.mark.long
@pytest.mark.parametrize("known", [True, False])
def test_code_that_comes_with_a_model_is_never_run(folder: Path, tmp_path: Path, known: bool) -> None:
    ran = tmp_path / "ran"
    (folder / "theirs.py").write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\nclass Theirs: pass\n")
    edited(folder, auto_map={"AutoConfig": "theirs.Theirs", "AutoModel": "theirs.Theirs"})
    if known:  # what transformers has itself is its own
        assert type(named_model(f"hf:{folder}")).__name__ == "BertForSequenceClassification"
    else:
        edited(folder, model_type="theirs")
        with pytest.raises(InputError, match="custom code"):
            named_model(f"hf:{folder}")
    assert not ran.exists()


@pytest.mark.long
def test_pickled_code_among_the_weights_is_never_run(folder: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> Any:
            return Path.touch, (ran,)

    (folder / "model.safetensors").unlink()
    torch.save({"classifier.weight": Hostile()}, folder / "pytorch_model.bin")
    with pytest.raises(CorruptError, match=r"hf:.*hold code, which is never run"):
        named_model(f"hf:{folder}")
    assert not ran.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)  # the control
    assert ran.exists()


@pytest.mark.long
@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (lambda f: edited(f, architectures=None), InputError, "names no architecture"),
        (lambda f: edited(f, architectures=["TheirBert"]), InputError, r"has no model 'TheirBert'\. Code that comes"),
        (lambda f: edited(f, architectures=["pipeline"]), InputError, "has no model 'pipeline'"),
        (lambda f: edited(f, architectures=["AutoTokenizer"]), InputError, "has no model 'AutoTokenizer'"),
        (lambda f: edited(f, model_type="theirs"), InputError, "does not recognize this architecture"),
        (lambda f: (f / "config.json").write_text("{"), InputError, "not a valid JSON"),
        (lambda f: (f / "config.json").unlink(), InputError, "model_type"),
        (lambda f: (f / "model.safetensors").unlink(), InputError, "no file named model.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), CorruptError, "its files are damaged"),
        (lambda f: edited(f, num_labels=7, id2label=None, label2id=None), InputError, "classifier"),
    ],
)
def test_a_folder_that_cannot_be_read_is_told(folder: Path, spoil: Any, kind: type[Exception], message: str) -> None:
    spoil(folder)
    with pytest.raises(kind, match=rf"(?s)model 'hf:.*{message}"):
        named_model(f"hf:{folder}")


@pytest.mark.long
def test_a_folder_that_is_not_there_is_not_asked_for_on_the_network(folder: Path) -> None:
    with pytest.raises(InputError, match=r"there is no such folder\. Did you mean 'bert'"):
        named_model(f"hf:{folder.parent}/brt")


@pytest.mark.long
@pytest.mark.parametrize("cached", [True, False])
def test_what_was_fetched_before_is_taken_and_only_else_the_network_asked(
    saved: Any, cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    asked = []
    of_folder = transformers.AutoConfig.from_pretrained

    def from_pretrained(name: str, *, local_files_only: bool, **options: Any) -> Any:
        asked.append(local_files_only)
        assert options.pop("trust_remote_code") is False
        if local_files_only and not cached:
            raise OSError("not in the cache")
        if not local_files_only:
            raise OSError("We couldn't connect to the hub")
        return of_folder(saved[0], **options)

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", from_pretrained)
    classifier = transformers.BertForSequenceClassification
    load = classifier.from_pretrained
    monkeypatch.setattr(classifier, "from_pretrained", lambda name, **options: load(saved[0], **options))
    if cached:
        named_model("hf:someone/bert")
        assert asked == [True]
    else:
        with pytest.raises(MachineError, match=r"model 'hf:someone/bert': could not be fetched: .*give a folder"):
            named_model("hf:someone/bert")
        assert asked == [True, False]


@pytest.mark.long
def test_a_model_of_the_real_timm_comes_from_a_folder(tmp_path: Path) -> None:
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm cannot be imported: {error}")
    source = timm.create_model("test_resnet", num_classes=5).eval()
    safetensors.torch.save_file(source.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "test_resnet", "num_classes": 5, "pretrained_cfg": {}})
    )
    model = named_model(f"timm:local-dir:{tmp_path}")
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(image), source(image))
    with pytest.raises(InputError, match=r"timm has no such model\. Did you mean 'resnet18'"):
        named_model("timm:resnet188")
