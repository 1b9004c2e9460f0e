"""The examples on graphs: what their data is, small runs of them, what their stored tables say; and models of torch-geometric."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import understudy as us
from understudy.losses import graph as scores
from understudy.losses import triple_scores

ROOT = Path(__file__).parents[1]


def example(name: str) -> ModuleType:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / f"examples/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def knowledge() -> ModuleType:
    return example("knowledge_graph")


@pytest.fixture(scope="module")
def letters(knowledge: ModuleType) -> Any:
    return knowledge.Graph(knowledge.facts())


@pytest.fixture(scope="module")
def social() -> ModuleType:
    pytest.importorskip("sklearn")
    return example("social_graph")


# -- knowledge ---------------------------------------------------------------------------------------------------------


def test_the_facts_are_those_of_unicode_3_2(knowledge: ModuleType) -> None:
    facts = knowledge.facts()
    assert knowledge.LETTERS.unidata_version == "3.2.0"
    about = {(relation, tail) for head, relation, tail in facts if head == "É"}
    assert about == {("base", "E"), ("mark", "\u0301"), ("small", "é"), ("script", "LATIN"), ("category", "Lu")}
    assert len(set(facts)) == len(facts) == 4676
    assert {relation for _, relation, _ in facts} == set(knowledge.RELATIONS)


def test_every_fact_is_asked_both_ways_in_one_part_only(knowledge: ModuleType, letters: Any) -> None:
    rows = [set(map(tuple, part.tolist())) for part in letters.parts]
    assert sum(map(len, rows)) == len(set.union(*rows)) == 2 * 4676
    count = len(knowledge.RELATIONS)
    for part in rows:
        assert {(t, r - count if r >= count else r + count, h) for h, r, t in part} == part
    assert len(rows[1]) == len(rows[2]) == 2 * (4676 // 10)


@pytest.mark.parametrize(
    ("name", "one"),
    [
        ("TransE", lambda h, r, t: scores.transe(h, r, t, norm=2.0)),
        ("DistMult", scores.distmult),
        ("ComplEx", scores.complex_score),
    ],
)
def test_the_scores_of_all_entities_are_those_of_each(knowledge: ModuleType, name: str, one: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    head, relation, tails = (torch.randn(n, 6, generator=generator) for n in (3, 3, 5))
    every = knowledge.SCORES[name](head, relation, tails)
    each = one(head[:, None].expand(3, 5, 6), relation[:, None].expand(3, 5, 6), tails.expand(3, 5, 6))
    torch.testing.assert_close(every, each, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(knowledge.SCORES[name](relation, tails[:3], head), each[:, :3])  # the control


class Told(nn.Module):
    """A model that scores entities by their number, the last highest."""

    def __init__(self, entities: int) -> None:
        super().__init__()
        self.entities = entities

    def forward(self, x: Tensor) -> Tensor:
        return torch.arange(self.entities).float().expand(len(x), -1)


def test_ranks_do_not_count_other_true_answers(knowledge: ModuleType, letters: Any) -> None:
    (head, relation), tail = letters.asked(2)[0][0].tolist(), int(letters.asked(2)[1][0])
    better = [e for e in range(tail + 1, letters.entities) if not letters.true[head, relation, e]]
    found = knowledge.ranks(Told(letters.entities), letters, 2)
    assert found[0] == 1 + len(better)
    unfiltered = 1 + letters.entities - 1 - letters.asked(2)[1]
    assert (found <= unfiltered).all()
    assert (found < unfiltered).any()

    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), letters.entities)

    others = letters.entities - int(letters.true[head, relation].sum())
    assert knowledge.ranks(Same(), letters, 2)[0] == 1 + others / 2  # who scores all alike is in the middle


def test_a_small_run_has_an_eighth_of_the_numbers_and_is_not_judged(
    knowledge: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    found = knowledge.main(names=["DistMult"], seeds=[0], steps=4)["DistMult"]
    text = capsys.readouterr().out
    assert list(found) == list(knowledge.TUNED["DistMult"])
    assert all(0 < value <= 1 for figures in found.values() for values in figures.values() for value in values)
    sizes = [int(n.replace(",", "")) for n in re.search(r"([\d,]+) and ([\d,]+) parameters", text).groups()]  # type: ignore[union-attr]
    assert sizes[0] == 8 * sizes[1]
    assert text.count("cannot be judged by one seed") == 2 * 3
    assert "…" not in text


def test_structure_reads_the_two_ends_of_each_fact(knowledge: ModuleType) -> None:
    student, teacher = (knowledge.Embedding("DistMult", 20, width).eval() for width in (2, 16))
    batch = {"input": torch.tensor([[3, 1], [4, 0]]), "label": torch.tensor([7, 9])}
    method = knowledge.scores(student, teacher, weight=0.5, structure=1.0)
    (move,) = method.moves(method.prepare(batch, us.Progress(0, 1, 0)), us.Progress(0, 1, 0))
    (part,) = [part for name, part in move.parts.items() if "between_ends" in name]
    heads, tails = torch.tensor([3, 4]), torch.tensor([7, 9])
    ends = [model.entity.weight[at] for model in (student, teacher) for at in (heads, tails)]
    torch.testing.assert_close(part.value, scores.triple_structure(*ends).mean())
    move.loss.backward()
    assert teacher.entity.weight.grad is None
    assert student.entity.weight.grad[torch.tensor([3, 4, 7, 9])].abs().sum(1).gt(0).all()


# -- people ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "nodes", "edges"), [("karate", 34, 78), ("miserables", 77, 254)])
def test_a_split_shows_no_edge_that_it_asks_for(social: ModuleType, name: str, nodes: int, edges: int) -> None:
    graph = getattr(social, name)()
    assert (len(graph.x), graph.edges.shape[1]) == (nodes, edges)
    split = social.Split.of(graph, seed=3)
    pairs, joined = split.asked, split.joined

    def ends(table: Tensor) -> set[tuple[int, ...]]:
        return {tuple(sorted(pair)) for pair in table.tolist()}

    whole, known = ends(graph.edges.T), ends(split.edges.T)
    asked, apart = ends(pairs[joined]), ends(pairs[~joined])
    assert known | asked == whole
    assert not known & asked
    assert len(apart) == len(asked) == round(0.2 * edges)
    assert not apart & whole
    assert not {a for a, b in asked | apart | known if a == b}
    batch = next(split.batches(seed=0))
    shown, others = (ends(batch["pairs"][batch["label"].squeeze(1) == yes]) for yes in (1, 0))
    assert shown == known
    assert not others & known
    assert ends(social.Split.of(graph, seed=4).edges.T) != known  # the control


def test_a_model_that_knows_the_graph_has_every_figure_at_its_best(social: ModuleType) -> None:
    graph = social.karate()
    split = social.Split.of(graph, seed=0)

    class Sees(nn.Module):
        """Vectors that are the factions."""

        def __init__(self) -> None:
            super().__init__()
            self.nodes = nn.Identity()

        def forward(self, x: Tensor, edges: Tensor, pairs: Tensor) -> Tensor:
            self.nodes(torch.eye(2)[graph.known])
            joined = {tuple(edge) for edge in graph.edges.T.tolist()}
            return torch.tensor([[float((a, b) in joined or (b, a) in joined)] for a, b in pairs.tolist()])

    figures = social.judged(Sees(), split)
    assert figures["AUC"] == 1
    assert figures["NMI"] == pytest.approx(1)
    assert figures["modularity"] == pytest.approx(0.358, abs=1e-3)  # of the two factions
    assert social.judged(social.Linked(34, 8), split)["NMI"] < 0.99


def test_a_small_run_on_people_is_not_judged(
    social: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(social, "STEPS", 4)
    found = social.main({"Karate club": social.karate()}, seeds=[0])["Karate club"]
    text = capsys.readouterr().out
    assert list(found) == ["teacher", *social.WAYS]
    assert text.count("cannot be judged by one seed") == 3 * (len(social.WAYS) - 1)
    assert max(map(len, text.splitlines())) <= 80


# -- the stored tables -------------------------------------------------------------------------------------------------

VERDICT = re.compile(r"^(.+): (\S+) ([+-][\d.]+) ± ([\d.]+), p = ([\d.e-]+): (.+)\.$", flags=re.MULTILINE)


def unborne(text: str) -> list[str]:
    """Words that the figures beside them do not bear out."""
    wrong = []
    for way, figure, change, _, p, said in VERDICT.findall(text):
        word = "helped" if float(change) > 0 else "hurt"
        if said != (word if float(p) < 0.05 else "made no clear difference"):
            wrong.append(f"{way}: {figure}")
    return wrong


@pytest.mark.parametrize(("name", "lines"), [("knowledge_graph", 3 * 2 * 3), ("social_graph", 2 * 3 + 2 * 2 + 2 * 3)])
def test_the_stored_words_are_those_that_the_stored_figures_bear_out(name: str, lines: int) -> None:
    text = (ROOT / f"docs/results/{name}.txt").read_text()
    assert len(VERDICT.findall(text)) == lines
    assert unborne(text) == []
    assert unborne(text.replace("made no clear difference", "helped").replace(": hurt", ": helped")) != []
    assert not [line for line in text.splitlines() if line != line.rstrip()]
    assert text.startswith(example(name).TOLD)


# -- torch-geometric ---------------------------------------------------------------------------------------------------

geometric = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:torch_geometric.*"),
]


def library() -> Any:
    pytest.importorskip("torch_geometric")
    from torch_geometric import datasets
    from torch_geometric import nn as layers

    return layers, datasets


def table(model: Any, name: str) -> Tensor:
    """All of an entity's or a relation's numbers."""
    parts = [getattr(model, f"{name}_emb").weight]
    return torch.cat([*parts, *([model_im.weight] if (model_im := getattr(model, f"{name}_emb_im", None)) else [])], 1)


@pytest.mark.parametrize("name", ["TransE", "DistMult", "ComplEx"])
class TestGeometric:
    pytestmark = geometric

    def test_its_scores_are_ours(self, name: str) -> None:
        layers, _ = library()
        model = getattr(layers, name)(20, 4, 6)
        triples = torch.randint(4, (3, 50), generator=torch.Generator().manual_seed(0))
        head, relation, tail = (
            table(model, "node")[triples[0]],
            table(model, "rel")[triples[1]],
            table(model, "node")[triples[2]],
        )
        if name == "TransE":
            head, tail = (nn.functional.normalize(x, p=1.0, dim=-1) for x in (head, tail))
        ours = {"TransE": scores.transe, "DistMult": scores.distmult, "ComplEx": scores.complex_score}[name]
        torch.testing.assert_close(ours(head, relation, tail), model(*triples), rtol=1e-4, atol=1e-5)

    def test_it_teaches_a_student_of_an_eighth(self, name: str) -> None:
        layers, _ = library()
        torch.manual_seed(0)
        teacher, student = (Scored(getattr(layers, name)(20, 4, width)) for width in (64, 8))
        triples = torch.randint(4, (400, 3), generator=torch.Generator().manual_seed(0))
        method = us.Distillation(us.Term(triple_scores, "student", "teacher"), student=student, teacher=teacher)
        before = float(method.loss(triples).detach())
        optimizer = us.Optim("AdamW", lr=0.05)
        us.train(method, triples, us.Settings(steps=150, batch_size=400, optimizer=optimizer, device="cpu"))
        assert float(method.loss(triples).detach()) < 0.5 * before


class Scored(nn.Module):
    """A model of triples, called with a table of them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(*x.unbind(1))


class Convolved(nn.Module):
    def __init__(self, layers: Any, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = layers.GCNConv(inputs, width), layers.GCNConv(width, classes)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.conv2(torch.relu(self.conv1(x, edges)), edges)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*:UserWarning:torch_geometric.*")
def test_the_structure_of_its_graph_networks_is_distilled() -> None:
    layers, datasets = library()
    torch.manual_seed(0)
    graph = datasets.KarateClub()[0]
    label = torch.where(graph.train_mask, graph.y, -100)
    batch = {"x": graph.x, "edges": graph.edge_index, "label": label}
    teacher, student = (Convolved(layers, graph.num_features, width, 4) for width in (32, 4))
    optimizer = us.Optim("AdamW", lr=0.05)
    settings = us.Settings(steps=100, optimizer=optimizer, device="cpu")
    us.train(us.methods.alone(teacher), iter([batch] * 100), settings)
    method = us.methods.local_structure(student, teacher.eval(), layers=[("conv1", "conv1")], width=1.0)

    def gap() -> float:
        return float(method.terms[1](method.reader.read(us.Batch.of(batch), method.terms[1].addresses), us.Batch.of(batch), torch.tensor(34), torch.tensor(34)).detach())  # fmt: skip

    before = gap()
    us.train(method, iter([batch] * 100), settings)
    assert gap() < 0.5 * before
