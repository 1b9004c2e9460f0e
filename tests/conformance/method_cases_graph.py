"""Methods of graph networks: batches of graphs, joined into one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from understudy import Method, methods

from .method_case import Case

Graph = dict[str, Tensor]


class GraphNet(nn.Module):
    """Two layers, in each of which a node takes the mean over itself and its neighbours."""

    def __init__(self, width: int, seed: int, batch_norm: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.second, self.head = nn.Linear(6, width), nn.Linear(width, width), nn.Linear(width, 5)
            self.norm = nn.BatchNorm1d(width) if batch_norm else nn.Identity()
            self.drop = nn.Dropout(0.3 if batch_norm else 0.0)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = torch.tanh(self.norm(around(self.first(x), edges)))
        return self.head(self.drop(torch.tanh(around(self.second(x), edges))))


def around(x: Tensor, edges: Tensor) -> Tensor:
    count = x.new_ones(len(x)).index_add(0, edges[1], x.new_ones(edges.shape[1]))
    return x.index_add(0, edges[1], x[edges[0]]) / count.unsqueeze(1)


def graph(nodes: int, seed: int) -> Graph:
    """A ring with a few edges more, of nodes with labels, of which a third is missing."""
    generator = torch.Generator().manual_seed(seed)
    ring = torch.stack([torch.arange(nodes), torch.arange(nodes).roll(1)])
    more = torch.randint(nodes, (2, nodes), generator=generator)
    label = torch.randint(5, (nodes,), generator=generator)
    label[::3] = -100
    return {"x": torch.randn(nodes, 6, generator=generator), "edges": torch.cat([ring, more], 1), "label": label}


def joined(graphs: Sequence[Graph]) -> Graph:
    """Several as one, which has no edge between them."""
    starts = torch.tensor([0, *(len(g["x"]) for g in graphs)]).cumsum(0)
    edges = [g["edges"] + start for g, start in zip(graphs, starts, strict=False)]
    return {
        "x": torch.cat([g["x"] for g in graphs]),
        "edges": torch.cat(edges, 1),
        "label": torch.cat([g["label"] for g in graphs]),
    }


def graphs(count: int = 12) -> DataLoader[Any]:
    return DataLoader([graph(4 + i % 3, seed=i) for i in range(count)], batch_size=4, collate_fn=joined)  # type: ignore[arg-type]


@dataclass(frozen=True)
class OfGraphs(Case):
    """A sample is a graph."""

    def batch(self, rows: int = 12) -> dict[str, Tensor]:
        return {**joined(list(graphs(rows).dataset)), "index": torch.arange(rows)}  # type: ignore[call-overload]


def seeing(method: Callable[..., Method]) -> Callable[..., Method]:
    return lambda student, teacher, **options: method(student, teacher, example=graph(4, seed=0), **options)


CASES = {
    "local_structure": OfGraphs(
        seeing(methods.local_structure),
        plain={"weight": 0},
        per_sample=False,
        student=lambda **more: GraphNet(3, seed=1, **more),
        teacher=lambda seed=2, **more: GraphNet(8, seed=seed, **more).train(),
        data=graphs,
    ),
}
