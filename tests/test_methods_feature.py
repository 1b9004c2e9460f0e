"""Methods of inner layers: their layers, weights and stages, and residual hints at inference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from understudy import Settings, Term, losses, methods, train
from understudy.errors import InputError
from understudy.method import Distillation
from understudy.methods.attentions import attentions, of_both
from understudy.methods.hinted import after, until
from understudy.methods.ofd import margin_of
from understudy.methods.residual_hint import ResidualHead, with_hint
from understudy.progress import Progress, linear
from understudy.projectors import ConvNorm, Linear
from understudy.settings import Optim
from understudy.state import digest
from understudy.zoo import CNN, MLP, ResNet


def pictures(rows: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, 1, 8, 8, generator=generator), torch.randint(10, (rows,), generator=generator)


def models() -> tuple[nn.Module, nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CNN(4), ResNet(channels=8, blocks=(1, 2), inputs=1)


def addresses(method: Distillation) -> list[list[str]]:
    return [[str(a) for a in term.addresses] for term in method.terms]


def weights(method: Distillation, step: int = 0, steps: int = 100) -> list[float]:
    return [term.weight_at(Progress(step, steps)) for term in method.terms]


# -- layers and weights ------------------------------------------------------------------------------------------------

CONVOLUTIONAL = {
    "attention_transfer": [1, 1000, 1000],
    "pkd": [1, 6, 6],
    "nst": [1, 50, 50],
    "cwd": [1, 50],
    "fsp": [1, 50],
    "kdsvd": [1, 1],
    "mgd": [1, 7e-5],
    "vid": [1, 1, 1],
    "ofd": [1, 0.0005, 0.001],
    "srd": [1, 2, 1],
    "residual_hint": [1, 1],
}


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_layers_are_chosen_by_an_example_and_weighed_as_in_the_paper(name):
    student, teacher = models()
    method = getattr(methods, name)(student, teacher, example=pictures(2))
    assert weights(method) == pytest.approx(CONVOLUTIONAL[name])
    assert addresses(method)[0] == ["student", "batch.label"]
    method.dry_run(pictures())
    method.loss(pictures()).backward()


def test_the_layers_that_are_chosen_are_those_of_equal_resolution():
    method = methods.attention_transfer(*models(), example=pictures(2))
    assert addresses(method)[1:] == [["student.layer1", "teacher.layer1"], ["student.layer3", "teacher.layer2"]]


def test_the_users_layers_take_precedence_and_need_no_example():
    method = methods.attention_transfer(*models(), layers=[("layer2", "layer1")])
    assert addresses(method)[1:] == [["student.layer2", "teacher.layer1"]]


def test_without_layers_and_example_both_are_asked_for():
    for name in CONVOLUTIONAL:
        with pytest.raises(InputError, match=r"example=|features="):
            getattr(methods, name)(*models())


@pytest.mark.parametrize(
    "name", ["attention_transfer", "nst", "fsp", "kdsvd", "review_kd", "mgd", "factor_transfer", "vitkd"]
)
def test_models_without_such_layers_are_told_what_there_is(name):
    x, y = torch.randn(4, 6), torch.zeros(4, dtype=torch.long)
    student, teacher = MLP(6, 3, hidden=(8, 8)), MLP(6, 3, hidden=(16, 16))
    with pytest.raises(InputError, match=r"no (layers|maps|tokens) of the two models|a vector has no positions"):
        getattr(methods, name)(student, teacher, example=(x, y)).dry_run((x, y))


@pytest.mark.parametrize("name", ["pkd", "vid", "ab", "ofd", "srd", "hint_stages", "residual_hint"])
def test_they_work_on_vectors(name):
    x, y = torch.randn(6, 6), torch.zeros(6, dtype=torch.long)
    student, teacher = MLP(6, 3, hidden=(8, 8)), MLP(6, 3, hidden=(16, 16))
    method = getattr(methods, name)(student, teacher, example=(x, y))
    method.dry_run((x, y))
    method.loss((x, y)).backward()


def test_flow_needs_two_layers():
    with pytest.raises(InputError, match="fsp: 1 pair of layers has no flow"):
        methods.fsp(*models(), layers=[("layer2", "layer1")])


def test_flow_is_between_neighbours_of_both_models():
    method = methods.fsp(*models(), layers=[("layer1", "stem"), ("layer2", "layer1"), ("layer3", "layer2")])
    assert addresses(method)[1:] == [
        ["student.layer1", "student.layer2", "teacher.stem", "teacher.layer1"],
        ["student.layer2", "student.layer3", "teacher.layer1", "teacher.layer2"],
    ]


def test_projectors_of_the_user_are_copied_for_each_pair():
    mine = Linear()
    method = methods.pkd(*models(), layers=[("layer1", "layer1"), ("layer3", "layer2")], project=mine)
    found = [term.project for term in method.terms][1:]
    assert [type(p) for p in found] == [Linear, Linear]
    assert found[0] is not found[1] is not mine


def test_a_review_grows_over_its_first_twelfth():
    method = methods.review_kd(*models(), example=pictures(2), weight=2.0)
    assert [weights(method, step, 120)[1] for step in (0, 4, 9, 119)] == pytest.approx([0.2, 1.0, 2.0, 2.0])
    curve = methods.review_kd(*models(), example=pictures(2), weight=linear(2, 0))
    assert weights(curve, 60, 120)[1] == pytest.approx(1.0)
    (loss,) = (t.loss for t in method.terms if isinstance(t.loss, losses.ReviewKD))
    method.dry_run(pictures())
    assert loss.sizes == (4, 8, 8, 16)


# -- OFD's margin ------------------------------------------------------------------------------------------------------


def test_the_margin_comes_from_the_last_batchnorm_of_the_teachers_layer():
    _, teacher = models()
    assert margin_of(teacher, "layer2") == ["teacher:layer2.1.norm2.weight", "teacher:layer2.1.norm2.bias"]
    assert margin_of(teacher, "layer2.1.norm2") == margin_of(teacher, "layer2")
    assert margin_of(teacher, "layer2.0.conv1") == margin_of(teacher, "head<") == margin_of(lambda x: x, "a") == []


def test_ofd_reads_the_teachers_batchnorm_and_changes_with_it():
    student, teacher = models()
    method = methods.ofd(student, teacher, layers=[("layer3.0", "layer2.1.norm2")])
    assert addresses(method)[1][2:] == ["teacher:layer2.1.norm2.weight", "teacher:layer2.1.norm2.bias"]
    assert isinstance(method.terms[1].project, ConvNorm)
    torch.manual_seed(0)
    method.dry_run(pictures())
    student.eval()
    before = float(method.loss(pictures()).detach())
    frozen = losses.ofd  # the same features, judged by another margin
    term = method.terms[1]
    term.loss = lambda s, t, scale, shift: frozen(s, t, scale, shift + 1.5)
    assert float(method.loss(pictures()).detach()) != pytest.approx(before, rel=1e-6)


# -- stages ------------------------------------------------------------------------------------------------------------


def test_a_stage_is_a_share_of_the_run_and_a_curve_runs_over_its_own():
    first, second = until(0.25, 3.0), after(0.25, linear(4, 0))
    at = [Progress(step, 8) for step in range(8)]
    assert [first(p) for p in at] == [3, 3, 0, 0, 0, 0, 0, 0]
    assert [second(p) for p in at] == pytest.approx([0, 0, 4, 4 - 4 / 6, 4 - 8 / 6, 2, 4 - 16 / 6, 4 - 20 / 6])
    assert until(0.0, 3.0) == until(0.5, 0.0) == after(0.5, 0.0) == 0
    assert after(0.0, 2.0) == 2
    for share in (-0.1, 1.0):
        with pytest.raises(InputError, match="share"):
            until(share, 1.0)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.125, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_there_is_always_exactly_one_of_two_stages(share, steps):
    for step in range(steps):
        p = Progress(step, steps)
        assert (until(share, 1.0)(p) != 0) != (after(share, 1.0)(p) != 0)


def test_hints_come_first_and_labels_after_them():
    method = methods.hint_stages(*models(), layers=[("layer2", "layer1")])
    assert weights(method, 0) == [0, 1, 0]
    assert weights(method, 24) == [0, 1, 0]
    assert weights(method, 25) == pytest.approx([1, 0, 4 / 9])
    assert weights(method, 99) == pytest.approx([1, 0, 1 / 9], abs=0.01)
    assert len(methods.hint_stages(*models(), example=pictures(2)).terms) == 3


def test_in_the_first_stage_of_hints_what_is_behind_the_guided_layer_stays_as_it_was():
    student, teacher = models()
    head, guided = digest(student.head), digest(student.layer2)
    method = methods.hint_stages(student, teacher, layers=[("layer2", "layer1")], share=0.99)
    settings = Settings(steps=3, batch_size=4, optimizer=Optim("SGD", lr=0.1, weight_decay=0.1), device="cpu")
    train(method, pictures(), settings)
    assert digest(student.head) == head
    assert digest(student.layer2) != guided


def test_boundaries_come_first_and_labels_after_them():
    method = methods.ab(*models(), example=pictures(2))
    assert weights(method, 0) == pytest.approx([0, 0.0015, 0.003])
    assert weights(method, 13) == [1, 0, 0]
    assert weights(methods.ab(*models(), example=pictures(2), weight=0)) == [1, 0, 0]


def test_the_paraphraser_comes_first_and_the_student_follows_it():
    method = methods.factor_transfer(*models(), example=pictures(2))
    assert weights(method, 0) == [1, 0, 1]
    assert weights(method, 13) == [1, 500, 0]
    factors = method.terms[1].loss
    method.dry_run(pictures())
    before = {n: p.clone() for n, p in factors.named_parameters()}
    settings = Settings(steps=8, batch_size=4, optimizer=Optim("SGD", lr=0.1), device="cpu")
    train(method, pictures(), settings)
    assert [n for n, p in factors.named_parameters() if torch.equal(p, before[n])] == []
    assert len(set(map(id, method.parameters()))) == len(list(method.parameters()))


# -- transformers ------------------------------------------------------------------------------------------------------


class Attentive(nn.Module):
    def __init__(self, width: int, names: tuple[str, str, str], depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Module() for _ in range(depth))
        for layer in self.layers:
            layer.num_heads = 2
            for name in names:
                layer.add_module(name, nn.Linear(width, width))


@pytest.mark.parametrize(
    "names", [("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("q_lin", "k_lin", "v_lin")]
)
def test_attention_is_found_by_the_names_of_its_layers(names):
    found = attentions("student", Attentive(4, names, 2))
    assert [a.query for a in found] == [f"layers.{i}.{names[0]}" for i in range(2)]
    assert [a.value for a in found] == [f"layers.{i}.{names[2]}" for i in range(2)]
    assert {a.heads for a in found} == {2}


def test_attentions_go_together_at_equal_depth():
    names = ("query", "key", "value")
    pairs = of_both(Attentive(4, names, 2), Attentive(4, names, 6))
    assert [theirs.query for _, theirs in pairs] == ["layers.2.query", "layers.5.query"]
    with pytest.raises(InputError, match="student has 3 attentions and teacher 2"):
        of_both(Attentive(4, names, 3), Attentive(4, names, 2))


@pytest.mark.parametrize("name", ["minilm", "minilmv2"])
def test_a_model_without_such_attention_is_told_so(name):
    with pytest.raises(InputError, match=r"student \(CNN\) has no attention"):
        getattr(methods, name)(*models())


def bert(width: int, depth: int, heads: int) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=16,
        max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


@pytest.mark.long
@pytest.mark.parametrize("name", ["tinybert", "minilm", "minilmv2"])
def test_they_work_on_bert_with_padding_that_counts_nowhere(name):
    torch.manual_seed(0)
    student, teacher = bert(8, 2, 2), bert(24, 4, 4 if name != "tinybert" else 2)
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(1, 50, (4, 6), generator=generator)
    there = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0], [1] * 6, [1, 1, 0, 0, 0, 0]])
    batch = {"input_ids": words, "attention_mask": there, "label": torch.tensor([0, 1, 2, 0])}
    options = {"example": batch} if name == "tinybert" else {}
    method = getattr(methods, name)(student, teacher, present="batch.attention_mask", **options)
    method.dry_run(batch)
    student.eval()
    value = method.loss(batch)
    value.backward()
    other = {**batch, "input_ids": torch.where(there == 1, words, 49 - words)}
    torch.testing.assert_close(method.loss(other), value)
    blind = getattr(methods, name)(student, teacher, **options)
    blind.dry_run(batch)
    torch.manual_seed(0)
    assert not torch.allclose(blind.loss(other), blind.loss(batch), rtol=1e-7)
    grads = [n for n, p in student.named_parameters() if p.grad is None]
    assert not [n for n in grads if "layer.1.attention.self" in n and "value" not in n]


# -- residual hints ----------------------------------------------------------------------------------------------------


def test_with_a_perfect_hint_the_sum_is_the_teachers_output():
    student, teacher = (m.double().eval() for m in models())
    x = pictures(8)[0].double()
    with torch.no_grad():
        pooled = student.layer3(student.layer2(student.layer1(x))).mean((2, 3))
        head = nn.Linear(8, 10).double()
        seen = torch.cat([pooled, torch.ones(8, 1)], 1)
        solved = torch.linalg.pinv(seen) @ (teacher(x) - student(x))  # nine unknowns for eight samples: exact
        head.weight.copy_(solved[:-1].T)
        head.bias.copy_(solved[-1])
        assert losses.residual(head(pooled), student(x), teacher(x)).max() < 1e-16
        both = ResidualHead(student, "head<", hint=head).eval()
        assert (both(x) - teacher(x)).abs().max() < 1e-6
        both.added = False
        assert torch.equal(both(x), student(x))
        assert (both(x) - teacher(x)).abs().max() > 0.1


@pytest.mark.parametrize("features", ["head<", "layer3", "layer1"])
def test_a_hint_is_learnt_and_can_be_added_or_dropped(features):
    student, teacher = models()
    method = methods.residual_hint(student, teacher, features=features, label_weight=0.0)
    batch = pictures(64)
    settings = Settings(steps=60, batch_size=64, optimizer=Optim("Adam", lr=0.02), device="cpu")
    train(method, batch, settings)
    both = with_hint(method).eval()
    assert both.student is student is method.student
    with torch.no_grad():
        target = teacher.eval()(batch[0])
        alone, added = (float((y - target).square().mean()) for y in (student.eval()(batch[0]), both(batch[0])))
    assert added < 0.5 * alone


def test_what_is_lacking_is_cut_from_the_graph_on_both_sides():
    student, teacher = models()
    method = methods.residual_hint(student, teacher, features="layer1", label_weight=0.0)
    method.dry_run(pictures())
    method.loss(pictures()).backward()
    assert student.layer1[0].weight.grad.ne(0).any()  # by the features
    assert student.head.weight.grad is None  # by the output
    assert all(p.grad is None for p in teacher.parameters())


def test_control_without_stop_the_output_moves_too():
    student, teacher = models()
    loss = losses.ResidualHint()
    term = Term(loss, "student.layer1", "student", "teacher")
    method = Distillation(term, student=student, teacher=teacher)
    method.dry_run(pictures())
    method.loss(pictures()).backward()
    assert student.head.weight.grad is not None


def test_a_student_with_its_own_head_is_trained_as_it_is_and_gives_the_sum():
    student, teacher = models()
    own = ResidualHead(student, "head<", inputs=8, outputs=10)
    assert {n.partition(".")[0] for n in own.state_dict()} == {"student", "hint"}
    method = methods.residual_hint(own, teacher)
    assert addresses(method) == [
        ["student.student", "batch.label"],
        ["student.hint", "stop student.student", "teacher"],
    ]
    method.dry_run(pictures())
    train(method, pictures(), Settings(steps=3, batch_size=4, device="cpu"))
    assert with_hint(method) is own is method.student
    own.eval()
    x, _ = pictures()
    caught = []
    handle = student.head.register_forward_pre_hook(lambda m, args: caught.append(args[0]))
    expected = student(x) + own.hint(caught[0])
    handle.remove()
    torch.testing.assert_close(own(x), expected)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in own.modules())


@pytest.mark.parametrize("wrapped", [True, False])
def test_agreement_is_watched_with_the_hint_and_without(wrapped):
    student, teacher = models()
    learns = ResidualHead(student, "head<", inputs=8, outputs=10) if wrapped else student
    method = methods.residual_hint(learns, teacher, **({} if wrapped else {"example": pictures(2)}))
    method.dry_run(pictures())
    batch = method.prepare(pictures(), Progress())
    method.eval()
    (move,) = method.moves(batch, Progress())
    with torch.no_grad():
        x, target = pictures()[0], teacher.eval()(pictures()[0]).argmax(1)
        plain, added = (
            float((y.argmax(1) == target).double().mean()) for y in (student(x), with_hint(method).eval()(x))
        )
    watched = {k: float(v) for k, v in move.watched.items()}
    assert watched == pytest.approx({"agreement": plain, "agreement with hint": added})


def test_what_cannot_be_is_refused():
    student, teacher = models()
    with pytest.raises(InputError, match="no submodule 'layer9'"):
        ResidualHead(student, "layer9<", inputs=1, outputs=1)
    with pytest.raises(InputError, match="give the head, or its sizes"):
        ResidualHead(student, "layer1")
    own = ResidualHead(student, "layer1", inputs=4, outputs=10)
    with pytest.raises(InputError, match="looks at 'layer1' already"):
        methods.residual_hint(own, teacher, features="layer2")
    with pytest.raises(InputError, match=r"with_hint: .*call its dry_run first"):
        with_hint(methods.residual_hint(student, teacher, features="layer2"))
    with pytest.raises(InputError, match="with_hint: this is no residual_hint"):
        with_hint(methods.kd(student, teacher))


def test_the_sum_can_be_exported():
    student, _ = models()
    own = ResidualHead(student, "head<", inputs=8, outputs=10).eval()
    x = pictures(2)[0]
    program = torch.export.export(own, (x,), strict=False)
    torch.testing.assert_close(program.module()(x), own(x))
