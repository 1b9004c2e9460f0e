import socket
import sys
from typing import Any

import pytest
import torch

from understudy.errors import InputError, MachineError, MissingExtra
from understudy.zoo import configured, from_config

VIT: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 4}  # fmt: skip
CONVNEXT: dict[str, Any] = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 2}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Whatever asks for an address or connects is noted, and fails."""
    asked: list[Any] = []

    def refuse(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return asked


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("transformers")


@pytest.mark.long
@pytest.mark.parametrize(("type", "config"), [("vit", VIT), ("convnext", CONVNEXT)])
def test_a_classifier_follows_its_configuration_and_the_data(
    library: Any, no_network: list[Any], type: str, config: Any
) -> None:
    model = from_config(type, 7, config, inputs=1, size=8).eval()
    assert model(torch.zeros(3, 1, 8, 8)).logits.shape == (3, 7)
    assert (model.config.num_channels, model.config.image_size, model.config.num_labels) == (1, 8, 7)
    assert all(model.config.to_dict()[key] == value for key, value in config.items())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.device.type == "cpu" for p in model.parameters())
    assert no_network == []


@pytest.mark.long
def test_control_a_fetch_would_be_noticed(library: Any, no_network: list[Any]) -> None:
    hub = pytest.importorskip("huggingface_hub")
    with pytest.raises(Exception, match="no network in tests"):
        hub.get_session().head("https://huggingface.co/owner/repo")
    assert no_network


@pytest.mark.long
def test_weights_are_drawn_by_the_generator_of_torch(library: Any) -> None:
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        made.append(torch.cat([p.flatten() for p in from_config("vit", 2, VIT, 1, 8).parameters()]))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert made[0].isfinite().all()


@pytest.mark.long
def test_a_size_is_given_as_the_architecture_takes_it(library: Any) -> None:
    assert from_config("vit", 2, VIT, 1, (8, 12)).config.image_size == [8, 12]
    assert from_config("vit", 2, VIT, 1, (8, 8)).config.image_size == 8
    resnet = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    model = from_config("resnet", 2, resnet, 1, 8).eval()  # made for images of any size
    assert model(torch.zeros(1, 1, 9, 8)).logits.shape == (1, 2)


@pytest.mark.long
def test_config_may_say_the_same_as_the_data_and_nothing_else(library: Any) -> None:
    assert from_config("vit", 2, {**VIT, "num_channels": 1, "image_size": 8}, 1, 8).config.num_channels == 1
    assert from_config("vit", 2, {**VIT, "num_channels": 2, "image_size": 8}).config.num_channels == 2
    with pytest.raises(InputError, match=r"config says num_channels=2, and the images have 1\. Leave it out"):
        from_config("vit", 2, {**VIT, "num_channels": 2}, 1, 8)


HOSTILE: dict[str, Any] = {
    "auto_map": {"AutoModelForImageClassification": "owner/repo--code.Model"},
    "trust_remote_code": True,
    "_name_or_path": "owner/repo",
    "name_or_path": "owner/repo",
    "attn_implementation": "owner/kernels",
    "_attn_implementation": "owner/kernels",
    "_attn_implementation_internal": "owner/kernels",
    "experts_implementation": "x",
    "quantization_config": {"quant_method": "bitsandbytes"},
    "dtype": "float16",
    "torch_dtype": "float16",
    "architectures": ["Other"],
    "backbone": "owner/repo",
    "use_pretrained_backbone": True,
    "per_layer_config": {},
    "problem_type": "regression",
    "output_hidden_states": True,
    "return_dict": False,
    "chunk_size_feed_forward": 3,
    "from_pretrained": "owner/repo",
    "__class__": "x",
    "vision_config": {"hidden_size": 3},
}


@pytest.mark.long
@pytest.mark.parametrize("key", HOSTILE)
def test_a_key_that_could_fetch_or_run_something_is_refused(library: Any, no_network: list[Any], key: str) -> None:
    with pytest.raises(InputError, match=f"config: there is no key '{key}' that may be set"):
        from_config("vit", 2, {**VIT, key: HOSTILE[key]}, 1, 8)
    assert no_network == []


@pytest.mark.long
def test_all_hostile_keys_are_told_at_once(library: Any) -> None:
    with pytest.raises(InputError) as told:
        from_config("vit", 2, {**VIT, **HOSTILE}, 1, 8)
    assert len(str(told.value).splitlines()) == len(HOSTILE)


@pytest.mark.long
def test_control_transformers_itself_takes_what_is_refused_here(library: Any) -> None:
    config = library.AutoConfig.for_model("vit", **VIT, auto_map=HOSTILE["auto_map"], name_or_path="owner/repo")
    assert (config.auto_map, config._name_or_path) == (HOSTILE["auto_map"], "owner/repo")


@pytest.mark.long
def test_a_class_that_has_such_a_key_of_its_own_does_not_give_it(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = configured._arguments
    monkeypatch.setattr(
        configured, "_arguments", lambda kind: [*real(kind), *HOSTILE] if "ViT" in kind.__name__ else real(kind)
    )
    outside = [key for key in HOSTILE if configured.OUTSIDE.search(key)]
    assert {
        "auto_map",
        "trust_remote_code",
        "name_or_path",
        "attn_implementation",
        "dtype",
        "backbone",
        "vision_config",
    } < set(outside)
    for key in outside:
        with pytest.raises(InputError, match="there is no key"):
            from_config("vit", 2, {**VIT, key: HOSTILE[key]}, 1, 8)


@pytest.mark.long
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hidden_sise": 3}, r"there is no key 'hidden_sise' that may be set\. Did you mean 'hidden_size'"),
        ({"num_labels": 3}, r"'num_labels' follows from the classes\. Leave it out"),
        ({"hidden_act": "owner/repo"}, "hidden_act='owner/repo' is not allowed; give a plain word"),
        ({"hidden_act": "gelu\nx"}, "give a plain word"),
        ({"hidden_act": {"a": 1}}, "give a number, a word, true or false, or a list"),
        ({"hidden_act": None}, "give a number, a word"),
        ({"patch_size": [[[[4]]]]}, "is not allowed; give a number, a word"),
        ({"hidden_size": 10**9}, "hidden_size=1000000000 is not allowed; give a number up to 65,536"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers=1000000 is not allowed; give a number up to 200"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps=nan is not allowed"),
        ({"hidden_size": 65_536, "intermediate_size": 65_536}, r"would have [\d,]+ parameters; allowed are 1,000,000,000"),
        ({"hidden_size": "wide"}, "transformers cannot make it of .*hidden_size"),
        ({"hidden_act": "nonsense"}, "transformers cannot make it of .*nonsense"),
        ({"hidden_size": 0}, "transformers cannot make it of"),
    ],
)  # fmt: skip
def test_what_no_configuration_can_be_is_refused(library: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_config("vit", 2, {**VIT, **given}, 1, 8)


@pytest.mark.long
@pytest.mark.parametrize("type", ["bert", "clip", "timm_wrapper", "vti", "owner/repo", "", "../vit", ["vit"], None])
def test_what_is_no_classifier_of_images_is_refused(library: Any, type: Any) -> None:
    with pytest.raises(InputError, match=r"transformers has no classifier of images that is called so\."):
        from_config(type, 2)


@pytest.mark.long
def test_the_nearest_type_is_told(library: Any) -> None:
    with pytest.raises(InputError, match=r"Did you mean 'convnext'"):
        from_config("convnxt", 2)
    with pytest.raises(InputError, match=r"Allowed: .*\bresnet\b.*\bvit\b"):
        from_config("xyz", 2)


@pytest.mark.long
@pytest.mark.parametrize(("numbers", "message"), [((0, 1, 8), "classes=0"), ((2, 0, 8), "inputs=0"), ((2, 1, 0), "size=0"), ((2, 1, (8, 0)), "size=")])  # fmt: skip
def test_numbers_that_cannot_be_are_refused(library: Any, numbers: Any, message: str) -> None:
    classes, inputs, size = numbers
    with pytest.raises(InputError, match=f"{message}.* is not allowed"):
        from_config("vit", classes, VIT, inputs, size)


@pytest.mark.long
def test_a_package_that_an_architecture_needs_is_told(library: Any) -> None:
    with pytest.raises(MachineError, match=r"needs a package that is not installed: .*natten"):
        from_config("dinat", 2)


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"understudy\[transformers\]"):
        from_config("vit", 2)
