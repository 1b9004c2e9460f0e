"""Layers are chosen by what the models put out: on nets of many families, and of two different ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy import Distillation, ModelInputs, Term, matching, methods
from understudy.errors import InputError
from understudy.losses import mse
from understudy.matching import Pair, pairs, penultimate, told
from understudy.projectors import Conv1x1, Linear
from understudy.state import digest
from understudy.zoo import CNN, MLP, ResNet

PICTURES = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
SERIES = torch.randn(4, 7, 6, generator=torch.Generator().manual_seed(0))


def chain(*layers: nn.Module | str) -> nn.Sequential:
    return nn.Sequential(*layers)


class InvertedResidual(nn.Module):
    """MobileNet's block: widen, one filter for each channel, narrow."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = 3 * inputs
        self.expand = chain(nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True))
        depthwise = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        self.depthwise = chain(depthwise, nn.BatchNorm2d(wide), nn.ReLU6(inplace=True))
        self.narrow = chain(nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.skips = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.narrow(self.depthwise(self.expand(x)))
        return x + y if self.skips else y


class MobileNet(nn.Module):
    def __init__(self, width: int, blocks: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = [chain(nn.Conv2d(1, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU6(inplace=True))]
        for stride in (1, 2, 2):
            layers += [InvertedResidual(width, width, stride if i == 0 else 1) for i in range(blocks)]
        self.features = nn.Sequential(*layers)
        self.classifier = chain(nn.Dropout(0.2), nn.Linear(width, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], width: int, *, depth: int = 1, batch_first: bool = True) -> None:
        super().__init__()
        self.net = kind(6, width, depth, batch_first=batch_first)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        if self.net.batch_first:
            return self.head(self.net(x)[0][:, -1])
        return self.head(self.net(x.transpose(0, 1))[0][-1])


class Blocks(nn.Module):
    """A transformer of tokens; some of its blocks may be left out of the forward."""

    def __init__(self, width: int, depth: int, runs: int | None = None, batch_first: bool = True) -> None:
        super().__init__()
        self.embed = nn.Linear(6, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 2 * width, batch_first=batch_first) for _ in range(depth)
        )
        self.head = nn.Linear(width, 5)
        self.runs, self.batch_first = depth if runs is None else runs, batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x if self.batch_first else x.transpose(0, 1))
        for block in self.blocks[: self.runs]:
            x = block(x)
        return self.head(x.mean(int(self.batch_first)))


def names(student: nn.Module, teacher: Any, example: Any, **options: Any) -> list[tuple[str, str]]:
    return [(p.student, p.teacher) for p in pairs(student, teacher, example, **options)]


# -- feature maps ------------------------------------------------------------------------------------------------------


def test_stages_of_residual_nets_are_matched_by_equal_resolution():
    found = pairs(ResNet(4, [1, 1, 1], inputs=1), ResNet(8, [2, 2, 2], inputs=1), PICTURES)
    assert found == [
        Pair("layer1", "layer1", (4, 4, 16, 16), (4, 8, 16, 16), "equal resolution"),
        Pair("layer2", "layer2", (4, 8, 8, 8), (4, 16, 8, 8), "equal resolution"),
        Pair("layer3", "layer3", (4, 16, 4, 4), (4, 32, 4, 4), "equal resolution"),
    ]


def test_stages_of_a_depthwise_net_end_with_its_blocks_and_not_inside_the_next():
    assert names(MobileNet(4), MobileNet(8, 2), PICTURES) == [
        ("features.1", "features.2"),
        ("features.2", "features.4"),
        ("features", "features"),  # which puts out what its last block does
    ]


def test_control_the_last_output_of_a_resolution_alone_is_inside_the_next_block(monkeypatch):
    monkeypatch.setattr(matching.Found, "_halving", lambda self, area, working: [])
    assert names(MobileNet(4), MobileNet(8, 2), PICTURES)[0] == ("features.2.expand", "features.3.expand")


def test_a_depthwise_student_goes_with_a_residual_teacher():
    assert names(MobileNet(4), ResNet(8, [1, 1, 1], inputs=1), PICTURES) == [
        ("features.1", "layer1"),
        ("features.2", "layer2"),
        ("features", "layer3"),
    ]


def test_only_equal_resolutions_are_matched_where_there_are_any():
    assert names(CNN(4), ResNet(8, [1, 1, 1], inputs=1), PICTURES) == [("layer1", "layer1"), ("layer3", "layer2")]


def plain(width: int, *strides: int, padding: int = 1, stem: int = 1) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, stride in enumerate((stem, *strides)):
        layers.append(chain(nn.Conv2d(width if i else 1, width, 3, stride, padding), nn.ReLU(inplace=True)))
    return chain(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


def test_without_an_equal_resolution_equal_shares_of_the_largest_are_matched():
    student, teacher = plain(4, 1, 2, padding=0), plain(8, 1, 2, 2)  # 14, 12, 5 and 16, 8, 4
    found = pairs(student, teacher, PICTURES)
    assert [(p.student_shape[2], p.teacher_shape[2]) for p in found] == [(12, 16), (5, 8)]
    assert {p.why for p in found} == {"equal share of the largest"}


def test_without_either_maps_are_matched_by_depth():
    student = plain(4, 1, padding=0, stem=4)  # 4 and 2 pixels wide
    teacher = plain(8, 1, 1, 1, padding=0)  # 14, 12, 10 and 8: of which no two are a halving apart
    found = pairs(student, teacher, PICTURES)
    assert {p.why for p in found} == {"equal depth"}
    assert [(p.student_shape[2], p.teacher_shape[2]) for p in found] == [(4, 10), (2, 8)]


def test_a_resolution_without_a_convolution_is_no_stage():
    pooled = chain(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 5))
    assert names(pooled, pooled, PICTURES) == [("1", "1")]


def test_the_stem_is_left_out_where_two_stages_follow_and_kept_where_one_does():
    assert [a for a, _ in names(plain(4, 2, 2), plain(4, 2, 2), PICTURES)] == ["1", "2"]
    assert [a for a, _ in names(plain(4, 2), plain(4, 2), PICTURES)] == ["0", "1"]


class Dense(nn.Module):
    """Maps are the output: a segmenter."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = chain(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.Tanh()
        )
        self.head = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def test_what_the_head_puts_out_is_no_layer_to_be_matched():
    assert names(Dense(4), Dense(8), PICTURES) == [("body", "body")]


# -- in place, several times, not at all -------------------------------------------------------------------------------


class InPlace(nn.Module):
    """A functional ReLU in place: the layer before it cannot be read, and no layer stands for what is after it."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv2(self.conv1(x))), inplace=self.in_place)
        return self.head(x.mean((2, 3)))


def test_a_layer_whose_output_is_changed_in_place_is_not_chosen():
    assert names(InPlace(True), InPlace(True), PICTURES) == [("conv2", "conv2")]
    assert names(InPlace(False), InPlace(False), PICTURES) == [("norm", "norm")]


def test_control_without_the_version_counters_a_layer_is_chosen_that_cannot_be_read(monkeypatch):
    monkeypatch.setattr("understudy.forward._version", lambda tensor: None)
    assert names(InPlace(True), InPlace(True), PICTURES) == [("norm", "norm")]
    with pytest.raises(InputError, match="changed in place"):
        methods.fitnets(InPlace(True), InPlace(True), example=PICTURES).dry_run((PICTURES, torch.zeros(4).long()))


def test_the_in_place_relu_itself_is_chosen():
    net = chain(nn.Linear(20, 8), nn.ReLU(inplace=True), nn.Linear(8, 5))
    assert names(net, copy.deepcopy(net), ROWS) == [("1", "1")]


class Twice(nn.Module):
    """One layer that runs twice, and one that never does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.idle = nn.Linear(20, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(self.again(self.first(x).relu())).relu())


def test_layers_that_run_twice_or_never_are_not_chosen():
    assert names(Twice(), Twice(), ROWS) == [("head<", "head<")]


def test_blocks_that_do_not_run_are_left_out():
    assert names(Blocks(4, 3, runs=2), Blocks(4, 6), SERIES) == [("blocks.0", "blocks.2"), ("blocks.1", "blocks.5")]


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_blocks_are_matched_at_equal_depth_by_the_uniform_strategy():
    expected = [(0, 2), (1, 5), (2, 8), (3, 11)]
    assert names(Blocks(4, 4), Blocks(8, 12), SERIES) == [(f"blocks.{i}", f"blocks.{j}") for i, j in expected]
    assert names(Blocks(4, 12), Blocks(8, 4), SERIES) == [(f"blocks.{j}", f"blocks.{i}") for i, j in expected]
    assert names(Blocks(4, 3), Blocks(8, 3), SERIES) == [(f"blocks.{i}", f"blocks.{i}") for i in range(3)]


@pytest.mark.parametrize("fewer", range(1, 9))
@pytest.mark.parametrize("more", range(8, 13))
def test_no_layer_is_matched_twice_and_the_last_goes_with_the_last(fewer, more):
    chosen = matching._evenly(range(1, more + 1), fewer)
    assert len(set(chosen)) == fewer
    assert sorted(chosen) == chosen
    assert chosen[-1] == more
    assert all(abs(at - (i + 1) * more / fewer) <= 0.5 for i, at in enumerate(chosen))


def test_tokens_of_unequal_length_do_not_go_together_unless_they_are_wished_for():
    class Half(Blocks):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[:, ::2])

    assert names(Half(4, 2), Blocks(4, 2), SERIES) == [("head<", "head<")]
    assert names(Half(4, 2), Blocks(4, 2), SERIES, kind="tokens") == [
        ("blocks.0", "blocks.0"),
        ("blocks.1", "blocks.1"),
    ]


def test_recurrent_nets_say_which_of_their_outputs_is_meant():
    (found,) = pairs(Recurrent(nn.GRU, 4), Recurrent(nn.LSTM, 8, depth=2), SERIES)
    assert found == Pair("net/0", "net/0", (4, 7, 4), (4, 7, 8), "equal depth")


def test_a_recurrent_student_goes_with_the_last_block_of_a_transformer():
    assert names(Recurrent(nn.GRU, 4), Blocks(8, 3), SERIES) == [("net/0", "blocks.2")]


@pytest.mark.parametrize("steps", [4, 7])  # as many as there are samples, so that the shape does not tell
def test_layers_whose_first_axis_is_time_are_not_chosen(steps):
    example = torch.randn(4, steps, 6)
    late = Recurrent(nn.GRU, 4, batch_first=False)
    assert names(late, Recurrent(nn.LSTM, 8), example) == [("head<", "head<")]
    assert names(Blocks(4, 2, batch_first=False), Blocks(4, 2), example) == [("head<", "head<")]
    with pytest.raises(InputError, match=r"first axis is time, for want of batch_first: net\."):
        pairs(late, Recurrent(nn.LSTM, 8), example, kind="tokens")


# -- vectors -----------------------------------------------------------------------------------------------------------


def test_hidden_layers_of_mlps_are_matched_by_depth():
    student, teacher = MLP(20, 5, [8]), MLP(20, 5, [16, 12, 8, 6])
    found = pairs(student, teacher, ROWS)
    assert [(p.student_shape, p.teacher_shape) for p in found] == [((4, 8), (4, 6))]
    assert len(pairs(teacher, copy.deepcopy(teacher), ROWS)) == 4


def test_models_of_different_families_meet_in_what_goes_into_their_last_layers():
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.head = nn.Linear(256, 12), nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.hidden(x.flatten(1)).relu())

    found = pairs(Flat(), CNN(4), PICTURES)
    assert found == [Pair("head<", "head<", (4, 12), (4, 8), "equal depth")]


@pytest.mark.parametrize(
    ("model", "example", "layer"),
    [
        (CNN(4), PICTURES, "head"),
        (ResNet(4, [1, 1], inputs=1), PICTURES, "head"),
        (MobileNet(4), PICTURES, "classifier.1"),
        (Recurrent(nn.LSTM, 4), SERIES, "head"),
        (Recurrent(nn.GRU, 4, batch_first=False), SERIES, "head"),
        (Blocks(4, 2), SERIES, "head"),
        (Twice(), ROWS, "head"),
        (plain(4, 2), PICTURES, "4"),
    ],
)
def test_penultimate_is_what_the_last_linear_layer_takes_in(model, example, layer):
    seen: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, args, output: seen.append(args[0]))
    term = Term(lambda x: x.flatten(1).sum(1), f"student.{penultimate(model, example)}")
    seen.clear()
    Distillation(term, student=model).dry_run(example)
    read = {}
    term.loss = lambda x: read.setdefault("x", x).flatten(1).sum(1)
    seen.clear()
    Distillation(term, student=model.eval()).loss(example)
    handle.remove()
    assert torch.equal(read["x"], seen[0])


class TwoHeads(nn.Module):
    """The layer that runs last is not the one whose output is returned."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.aside = nn.Linear(20, 8), nn.Linear(8, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.body(x).relu())
        return {"aside": self.aside(logits.detach()).mean(1), "logits": logits}


def test_penultimate_is_before_the_layer_whose_output_is_returned():
    assert penultimate(TwoHeads(), ROWS) == "head<"


# -- what models and batches may be ------------------------------------------------------------------------------------


class Nested(nn.Module):
    """A net in boxes, which returns a dictionary and takes one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"net": nn.ModuleList([ResNet(width, [1, 1], inputs=1)]), "spare": nn.Linear(3, 3)})

    def forward(self, image: Tensor) -> dict[str, Any]:
        logits = self.model["net"][0](image)
        return {"loss": None, "logits": logits, "all": [logits, (logits,)]}


@pytest.mark.parametrize(
    "example",
    [
        {"image": PICTURES, "label": torch.zeros(4).long()},
        ModelInputs(kwargs={"image": PICTURES}),
        (PICTURES, torch.zeros(4).long()),
        PICTURES,
    ],
)
def test_nested_models_and_every_form_of_batch_do(example):
    found = names(Nested(4), Nested(8), example)
    assert found == [(f"model.net.0.layer{i}",) * 2 for i in (1, 2)]
    assert penultimate(Nested(4), example) == "model.net.0.head<"


def test_a_call_of_the_users_is_used():
    call = lambda model, batch: model(batch["picture"])  # noqa: E731
    assert len(pairs(CNN(4), CNN(8), {"picture": PICTURES}, call=call)) == 2


def test_models_are_left_as_they_were():
    student, teacher = CNN(4).train(), CNN(8).train()
    before = [digest(student), digest(teacher)]
    state = torch.get_rng_state()
    pairs(student, teacher, PICTURES)
    penultimate(student, PICTURES)
    assert [digest(student), digest(teacher)] == before
    assert torch.equal(torch.get_rng_state(), state)
    for module in (*student.modules(), *teacher.modules()):
        assert module.training
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_a_compiled_model_is_seen_below_its_compilation():
    student = CNN(4)
    student.compile(backend="eager")
    assert names(student, torch.compile(CNN(8), backend="eager"), PICTURES) == [
        ("layer1", "layer1"),
        ("layer3", "layer3"),
    ]


# -- what is said ------------------------------------------------------------------------------------------------------


def test_count_spreads_the_pairs_evenly():
    deep = MLP(20, 5, [8] * 6)
    every = names(deep, copy.deepcopy(deep), ROWS)
    assert names(deep, copy.deepcopy(deep), ROWS, count=3) == every[1::2]
    assert names(deep, copy.deepcopy(deep), ROWS, count=1) == every[-1:]
    assert names(deep, copy.deepcopy(deep), ROWS, count=60) == every


def test_layers_that_are_named_are_taken_and_their_shapes_told_by_an_example():
    layers = [("layer2", "layer3"), ("head<", "head<")]
    assert pairs(CNN(4), CNN(8), None, layers=layers) == [Pair("layer2", "layer3"), Pair("head<", "head<")]
    found = pairs(CNN(4), CNN(8), PICTURES, layers=layers)
    assert [p.student_shape for p in found] == [(4, 8, 8, 8), (4, 8)]
    assert [type(p.projector()) for p in found] == [Conv1x1, Linear]


def test_the_choice_is_told_in_a_line_each():
    found = pairs(CNN(4), CNN(8), PICTURES)
    assert told(found) == (
        "student.layer1 [4, 16, 16] with teacher.layer1 [8, 16, 16]: equal resolution\n"
        "student.layer3 [8, 8, 8] with teacher.layer3 [16, 8, 8]: equal resolution"
    )
    assert told([replace(found[0], student_shape=(), why="as given")]).startswith(
        "student.layer1 with teacher.layer1 ["
    )


def test_where_nothing_goes_together_what_was_found_is_named():
    with pytest.raises(InputError) as error:
        pairs(CNN(4), Blocks(4, 2), None)
    assert "give example=" in str(error.value)
    with pytest.raises(InputError) as error:
        pairs(CNN(4), CNN(8), PICTURES, kind="tokens")
    message = str(error.value)
    assert "no tokens of the two models go together" in message
    assert "student: maps layer1 [4, 16, 16], layer3 [8, 8, 8]; vectors head< [8]" in message
    assert "layers=[('layer2', 'layer3')]" in message
    assert "understudy list layers" in message


def test_what_gives_outputs_only_has_no_layers():
    with pytest.raises(InputError, match="the teacher is a function that gives its last output only"):
        pairs(CNN(4), lambda x: x, PICTURES)


def test_a_model_without_a_linear_layer_has_none_before_it():
    with pytest.raises(InputError, match="Flatten has no linear layer that runs once"):
        penultimate(nn.Flatten(), PICTURES)


# -- fitnets -----------------------------------------------------------------------------------------------------------

FAMILIES: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], Tensor, str, type]] = {
    "residual": (lambda: ResNet(4, [1, 1, 1], inputs=1, classes=5), lambda: ResNet(8, [1, 1, 1], inputs=1, classes=5), PICTURES, "layer2", Conv1x1),
    "depthwise": (lambda: MobileNet(4), lambda: ResNet(8, [1, 1, 1], inputs=1, classes=5), PICTURES, "features.2", Conv1x1),
    "tokens": (lambda: Blocks(4, 3), lambda: Blocks(8, 6), SERIES, "blocks.1", Linear),
    "recurrent": (lambda: Recurrent(nn.GRU, 4), lambda: Recurrent(nn.LSTM, 8), SERIES, "net/0", Linear),
    "mlp": (lambda: chain(nn.Linear(20, 4), nn.ReLU(True), nn.Linear(4, 5)), lambda: Twice(), ROWS, "1", Linear),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_fitnets_takes_the_middle_pair_and_the_projector_that_fits_it(family):
    student, teacher, example, layer, projector = FAMILIES[family]
    torch.manual_seed(0)
    method = methods.fitnets(student(), teacher(), example=example)
    method.dry_run((example, torch.arange(4)))
    hint = method.terms[1]
    assert str(hint.addresses[0]) == f"student.{layer}"
    assert type(hint.project) is projector
    method.loss((example, torch.arange(4))).backward()
    assert hint.project.layer.weight.grad.ne(0).any()


def test_fitnets_wants_an_example_or_both_layers():
    with pytest.raises(InputError, match="give example="):
        methods.fitnets(CNN(4), CNN(8))
    with pytest.raises(InputError, match="give both, or neither"):
        methods.fitnets(CNN(4), CNN(8), student_layer="layer1", example=PICTURES)
    named = methods.fitnets(CNN(4), CNN(8), student_layer="layer1", teacher_layer="layer2")
    assert [str(a) for a in named.terms[1].addresses] == ["student.layer1", "teacher.layer2"]
    assert named.terms[1].loss is mse


# -- transformers ------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_models_of_transformers_are_matched():
    transformers = pytest.importorskip("transformers")

    def vit(layers: int, width: int) -> nn.Module:
        config = transformers.ViTConfig(
            image_size=16, patch_size=4, num_channels=1, hidden_size=width, num_hidden_layers=layers,
            num_attention_heads=2, intermediate_size=width, num_labels=5,
        )  # fmt: skip
        return transformers.ViTForImageClassification(config)

    def bert(layers: int, width: int, **more: bool) -> nn.Module:
        config = transformers.BertConfig(
            vocab_size=30, hidden_size=width, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=width,
            num_labels=5, **more,
        )  # fmt: skip
        return transformers.BertForSequenceClassification(config)

    def resnet(width: int, *depths: int) -> nn.Module:
        sizes = [width, 2 * width, 4 * width, 8 * width]
        config = transformers.ResNetConfig(
            num_channels=1, embedding_size=4, hidden_sizes=sizes, depths=depths, num_labels=5
        )
        return transformers.ResNetForImageClassification(config)

    words = {"input_ids": torch.randint(30, (4, 9), generator=torch.Generator().manual_seed(0))}
    for make, example in ((vit, PICTURES), (bert, words)):
        found = pairs(make(4, 8), make(12, 16), example)
        depths = [(p.student.rpartition(".")[2], p.teacher.rpartition(".")[2]) for p in found]
        assert depths == [("0", "2"), ("1", "5"), ("2", "8"), ("3", "11")]
        method = methods.fitnets(make(2, 8), make(4, 16), example=example)
        method.dry_run({**(example if isinstance(example, dict) else {"input": example}), "label": torch.arange(4)})
    shown = pairs(bert(2, 8, output_hidden_states=True, output_attentions=True), bert(2, 16), words)
    assert [p.student_shape for p in shown] == [(4, 9, 8)] * 2
    assert [p.student for p in pairs(resnet(8, 1, 1, 1, 1), resnet(16, 2, 1, 2, 1), torch.randn(4, 1, 64, 64))] == [
        f"resnet.encoder.stages.{i}" for i in range(4)
    ]
    assert names(CNN(4), vit(2, 8), PICTURES) == [("head<", "classifier<")]  # and not the picture cut into patches
    assert names(Recurrent(nn.LSTM, 4), bert(2, 8), {"x": torch.randn(4, 9, 6), **words}) == [
        ("net/0", "bert.encoder.layer.1")
    ]
