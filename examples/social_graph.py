"""Who knows whom, and who belongs together: a graph network of an eighth of the width, on real graphs.

Zachary's karate club (34 members, 78 friendships, two factions after its split) and the characters of Les Misérables (77, of
whom 254 pairs appear together) come with networkx, which torch brings along. With a path, as in
`python examples/social_graph.py cora_planetoid.npz`, there is also Cora: 2,708 papers with their words, 5,278 citations, seven
topics; no social graph, but of a size at which an interval says something.

Two layers, in each of which a node takes the mean over its neighbours, give each node a vector; the product of two vectors is
the logit that there is an edge. A fifth of the edges (of Cora a tenth) is held out, with as many pairs without an edge: AUC is
how often the edge has the larger logit. Communities are k-means of the vectors: their NMI with the factions or topics, which
nobody was told, and their modularity.

Students learn the edges alone; with the teacher's logits of all pairs of the step (kd); and with local structure too, how a
node's vector stands to its neighbours' (Yang et al. 2020, arXiv:2003.10477). A seed is a split, a teacher, and one start for all
students. Learning rates and weights were chosen on other seeds.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import networkx as nx
import numpy as np
import torch
from rich.console import Console
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score, roc_auc_score
from torch import Tensor, nn

import understudy as us
from understudy.losses import binary_cross_entropy, binary_kl, local_structure
from understudy.measure import interval, paired, parameters
from understudy.report import Column, render

STEPS = 200
TOLD = "Teacher: vectors of 64; students: of 8. ± 95 % t-interval over splits, starts."
COLUMNS = (Column("model", "model"), *(Column(figure, figure) for figure in ("AUC", "NMI", "modularity")))


@dataclass(frozen=True, eq=False)
class Graph:
    """A graph, and how it is learnt.

    Attributes:
        x: each node's words ``[N, W]``, filled up with the number of all words.
        words: their number.
        edges: undirected, ``[2, E]``.
        known: each node's community, where that is known.
        communities: their number.
        held_out: the share of the edges that is asked for.
        rates: learning rates of teacher and students.
    """

    x: Tensor
    words: int
    edges: Tensor
    known: Tensor | None
    communities: int
    held_out: float
    rates: tuple[float, float]


def karate() -> Graph:
    graph = nx.karate_club_graph()
    known = torch.tensor([graph.nodes[n]["club"] == "Officer" for n in graph]).long()
    return Graph(
        torch.arange(len(graph)).unsqueeze(1),
        len(graph),
        torch.tensor(list(graph.edges)).T,
        known,
        2,
        0.2,
        (0.001, 0.01),
    )


def miserables() -> Graph:
    graph = nx.convert_node_labels_to_integers(nx.les_miserables_graph())
    return Graph(
        torch.arange(len(graph)).unsqueeze(1),
        len(graph),
        torch.tensor(list(graph.edges)).T,
        None,
        6,
        0.2,
        (0.003, 0.01),
    )


def cora(path: Path) -> Graph:
    stored = np.load(path)
    lines = torch.from_numpy(stored["x_indices"]).long().split(np.diff(stored["x_indptr"]).tolist())
    words = int(stored["x_shape"][1])
    x = nn.utils.rnn.pad_sequence(list(lines), batch_first=True, padding_value=words)
    edges, topics = (torch.from_numpy(stored[name]).long() for name in ("edges", "y"))
    return Graph(x, words, edges, topics, 7, 0.1, (0.01, 0.1))


class Linked(nn.Module):
    """From the nodes' words, edges that are known, and pairs to the logits of an edge between each pair ``[P, 1]``."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.first = nn.EmbeddingBag(words + 1, 2 * width, mode="mean", padding_idx=words)
        self.second, self.nodes, self.drop = nn.Linear(2 * width, width), nn.Identity(), nn.Dropout(0.5)

    def forward(self, x: Tensor, edges: Tensor, pairs: Tensor) -> Tensor:
        hidden = self.drop(torch.relu(around(self.first(x), edges)))
        vectors = self.nodes(around(self.second(hidden), edges))
        return (vectors.index_select(0, pairs[:, 0]) * vectors.index_select(0, pairs[:, 1])).sum(1, True)


def around(x: Tensor, edges: Tensor) -> Tensor:
    """The mean over a node and its neighbours, each of them weighed down by how many neighbours it has itself."""
    degree = x.new_ones(len(x)).index_add(0, edges[1], x.new_ones(edges.shape[1])).rsqrt().unsqueeze(1)
    x = x * degree
    return x.index_add(0, edges[1], x.index_select(0, edges[0])) * degree


@dataclass(frozen=True, eq=False)
class Split:
    """Edges in both directions to learn from, and pairs that are asked for, of which half are joined."""

    graph: Graph
    edges: Tensor
    asked: Tensor
    joined: Tensor

    @classmethod
    def of(cls, graph: Graph, seed: int) -> Split:
        generator = torch.Generator().manual_seed(seed)
        edges = graph.edges[:, torch.randperm(graph.edges.shape[1], generator=generator)]
        free = apart(graph, edges)
        free = free[torch.randperm(len(free), generator=generator)]
        count = round(graph.held_out * edges.shape[1])
        asked = torch.cat([edges[:, :count].T, free[:count]])
        known = edges[:, count:]
        return cls(graph, torch.cat([known, known.flip(0)], 1), asked, torch.arange(2 * count) < count)

    def batches(self, seed: int) -> Iterator[dict[str, Tensor]]:
        """The whole graph, again and again: its known edges, and as many other pairs, of which some may be held-out edges."""
        generator = torch.Generator().manual_seed(seed)
        known = self.edges[:, : self.edges.shape[1] // 2]
        free = apart(self.graph, known)
        label = (torch.arange(2 * known.shape[1]) < known.shape[1]).float().unsqueeze(1)
        while True:
            others = free[torch.randint(len(free), (known.shape[1],), generator=generator)]
            yield {"pairs": torch.cat([known.T, others]), "x": self.graph.x, "edges": self.edges, "label": label}


def apart(graph: Graph, edges: Tensor) -> Tensor:
    """All pairs but these."""
    joined = torch.zeros(len(graph.x), len(graph.x), dtype=torch.bool)
    joined[edges[0], edges[1]] = True
    return (~(joined | joined.T)).triu(1).nonzero()


def fit(method: us.Method, split: Split, seed: int, lr: float) -> nn.Module:
    optimizer = us.Optim("AdamW", lr=lr, schedule=us.cosine(1, 0), warmup=0.05)
    us.train(method, split.batches(seed), us.Settings(steps=STEPS, optimizer=optimizer, seed=seed, device="cpu"))
    return method.student.eval()


def alone(student: nn.Module) -> us.Method:
    return us.Distillation(us.Term(binary_cross_entropy, "student", "batch.label"), student=student)


def distilled(student: nn.Module, teacher: nn.Module, *, soft: float, structure: float) -> us.Method:
    return us.Distillation(
        us.Term(binary_cross_entropy, "student", "batch.label", weight=1 - soft),
        us.Term(binary_kl, "student", "teacher", weight=soft),
        us.Term(around_alike, "student.nodes", "teacher.nodes", "batch.edges", weight=structure),
        student=student,
        teacher=teacher,
    )


def around_alike(student: Tensor, teacher: Tensor, edges: Tensor) -> Tensor:
    """Over nodes, where samples are pairs."""
    return local_structure(student, teacher, edges, width=1.0).mean()


def judged(model: nn.Module, split: Split) -> dict[str, float]:
    graph, vectors = split.graph, []
    hook = model.nodes.register_forward_hook(lambda module, inputs, output: vectors.append(output))
    with torch.no_grad():
        logits = model(graph.x, split.edges, split.asked)
    hook.remove()
    found = KMeans(graph.communities, n_init=10, random_state=0).fit_predict(vectors[0])
    groups = [set(np.flatnonzero(found == c).tolist()) for c in range(graph.communities)]
    whole = nx.Graph(graph.edges.T.tolist())
    whole.add_nodes_from(range(len(graph.x)))
    figures = {"AUC": float(roc_auc_score(split.joined, logits)), "modularity": nx.community.modularity(whole, groups)}
    if graph.known is not None:
        figures["NMI"] = float(normalized_mutual_info_score(graph.known, found))
    return figures


WAYS: dict[str, Callable[[nn.Module, nn.Module], us.Method]] = {
    "student alone": lambda student, teacher: alone(student),
    "kd": partial(distilled, soft=0.5, structure=0.0),
    "kd and structure": partial(distilled, soft=0.5, structure=1.0),
}


def table(name: str, graph: Graph, seeds: Sequence[int], width: int = 64) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:
        split = Split.of(graph, seed)
        torch.manual_seed(seed)
        teacher = fit(alone(Linked(graph.words, width)), split, seed, graph.rates[0])
        start = Linked(graph.words, width // 8)
        models = {
            way: fit(make(copy.deepcopy(start), teacher), split, seed, graph.rates[1]) for way, make in WAYS.items()
        }
        for model, made in {"teacher": teacher, **models}.items():
            for figure, value in judged(made, split).items():
                found.setdefault(model, {}).setdefault(figure, []).append(value)
    rows = [{"model": model, **{k: str(interval(v)) for k, v in figures.items()}} for model, figures in found.items()]
    sizes = " and ".join(f"{parameters(Linked(graph.words, w)):,}" for w in (width, width // 8))
    screen = Console(width=80, highlight=False)
    screen.print(
        f"{name}: {len(graph.x):,} nodes, {graph.edges.shape[1]:,} edges; {sizes} parameters; {len(seeds)} seeds"
    )
    screen.print(render(rows, COLUMNS, title=""))
    for way in list(WAYS)[1:]:
        for figure, values in found[way].items():
            screen.print(f"{way}: {figure} {told(values, found['student alone'][figure])}.", soft_wrap=True)
    screen.print()
    return found


def told(these: Sequence[float], those: Sequence[float]) -> str:
    test = paired(these, those)
    if test.difference.half is None:
        return "cannot be judged by one seed"
    word = {True: "helped", False: "hurt", None: "made no clear difference"}[test.better]
    return f"{test.difference.mean:+.3f} ± {test.difference.half:.3f}, p = {test.p_value:.2g}: {word}"


def main(graphs: Mapping[str, Graph], seeds: Sequence[int] = range(10)) -> dict[str, dict[str, dict[str, list[float]]]]:
    print(TOLD + "\n")
    return {name: table(name, graph, seeds) for name, graph in graphs.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    own = {"Karate club": karate(), "Les Misérables": miserables()}
    main(own | ({"Cora": cora(Path(sys.argv[1]))} if len(sys.argv) > 1 else {}))
