"""A knowledge graph in an eighth of the numbers: TransE, DistMult and ComplEx.

The graph is a real one that every Python has: the letters of Unicode 3.2 (`unicodedata.ucd_3_2_0`, which never changes), in the
scripts Latin, Greek and Cyrillic. Its facts are what the standard says of a letter: its base letter and its mark (É: E and the
acute accent), its small letter (é), its script and its category. What is not told follows from other facts: É has the mark that
é has. A tenth of the facts is held out for validation and a tenth for the test, each once as (É, mark, ?) and once as (?, mark, ´).

The teacher has 128 numbers for each entity and relation, students have 16. They learn the facts alone, by cross-entropy among all
entities; with the teacher's scores of all entities, by KL divergence (kd) or by the Huber distance (scores); and with scores and
structure: the angle between the two ends of a fact, and how their lengths compare (Zhu et al. 2022, arXiv:2009.05912). Ranks are
filtered: other true answers do not count. Weights were chosen on the validation facts.
"""

from __future__ import annotations

import copy
import unicodedata
from collections.abc import Callable, Sequence
from functools import partial

import torch
from rich.console import Console
from torch import Tensor, nn

import understudy as us
from understudy.losses import cross_entropy, triple_scores, triple_structure
from understudy.measure import interval, paired, parameters
from understudy.report import Column, render

LETTERS = unicodedata.ucd_3_2_0
RELATIONS = ("base", "mark", "small", "script", "category")
TOLD = "Teacher: 128 numbers for each entity; students: 16. ± 95 % t-interval."
COLUMNS = (Column("model", "model"), Column("MRR", "MRR"), Column("Hits@10", "Hits@10"))

Fact = tuple[str, str, str]


def facts() -> list[Fact]:
    """What Unicode says of the letters, in the order of their numbers."""
    found: list[Fact] = []
    for letter in map(chr, range(0x10000)):
        name = LETTERS.name(letter, "")
        script, category = name.partition(" ")[0], LETTERS.category(letter)
        if script not in ("LATIN", "GREEK", "CYRILLIC") or category not in ("Lu", "Ll"):
            continue
        found += [(letter, "script", script), (letter, "category", category)]
        parts = [chr(int(code, 16)) for code in LETTERS.decomposition(letter).split() if not code.startswith("<")]
        if len(parts) == 2:
            found += [(letter, "base", parts[0]), (letter, "mark", parts[1])]
        if " CAPITAL " in name and (small := looked_up(name.replace(" CAPITAL ", " SMALL "))):
            found.append((letter, "small", small))
    return found


def looked_up(name: str) -> str | None:
    try:
        return LETTERS.lookup(name)
    except KeyError:
        return None


class Graph:
    """Facts as numbers, each in both directions: (head, relation, tail) and (tail, inverse relation, head)."""

    def __init__(self, known: Sequence[Fact]) -> None:
        names = sorted({end for head, _, tail in known for end in (head, tail)})
        number = {name: i for i, name in enumerate(names)}
        self.entities = len(names)
        table = torch.tensor([[number[h], RELATIONS.index(r), number[t]] for h, r, t in known])
        table = table[torch.randperm(len(table), generator=torch.Generator().manual_seed(0))]
        self.parts = [
            both_ways(part) for part in table.split([len(table) - 2 * (len(table) // 10), *[len(table) // 10] * 2])
        ]
        self.true = torch.zeros(self.entities, 2 * len(RELATIONS), self.entities, dtype=torch.bool)
        for part in self.parts:
            self.true[part[:, 0], part[:, 1], part[:, 2]] = True

    def asked(self, part: int) -> tuple[Tensor, Tensor]:
        """(head, relation), and the tail that is asked for."""
        return self.parts[part][:, :2], self.parts[part][:, 2]


def both_ways(part: Tensor) -> Tensor:
    return torch.cat([part, torch.stack([part[:, 2], part[:, 1] + len(RELATIONS), part[:, 0]], 1)])


class Embedding(nn.Module):
    """Scores of all entities as the tail of (head, relation). The head goes through a module, so that a term can read it."""

    def __init__(self, score: str, entities: int, width: int) -> None:
        super().__init__()
        self.score = SCORES[score]
        self.entity, self.relation = nn.Embedding(entities, width), nn.Embedding(2 * len(RELATIONS), width)
        for table in (self.entity, self.relation):
            nn.init.normal_(table.weight, std=width**-0.5)
        self.drop, self.head = nn.Dropout(0.2), nn.Identity()

    def forward(self, input: Tensor) -> Tensor:
        head = self.head(self.entity(input[:, 0]))
        return self.score(self.drop(head), self.drop(self.relation(input[:, 1])), self.entity.weight)


def transe(head: Tensor, relation: Tensor, tails: Tensor) -> Tensor:
    x = head + relation
    return -(x.square().sum(1, True) + tails.square().sum(1) - 2 * x @ tails.T).clamp(min=1e-6).sqrt()


def distmult(head: Tensor, relation: Tensor, tails: Tensor) -> Tensor:
    return (head * relation) @ tails.T


def complex_score(head: Tensor, relation: Tensor, tails: Tensor) -> Tensor:
    (a, b), (c, d) = head.chunk(2, 1), relation.chunk(2, 1)
    return torch.cat([a * c - b * d, a * d + b * c], 1) @ tails.T


SCORES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "TransE": transe, "DistMult": distmult, "ComplEx": complex_score,
}  # fmt: skip


def ranks(model: nn.Module, graph: Graph, part: int) -> Tensor:
    """Of the entity that is asked for, among those that are not known to be true too; equal scores share their rank."""
    asked, tail = graph.asked(part)
    with torch.no_grad():
        said = model(asked)
    own = said.gather(1, tail[:, None])
    said = said.masked_fill(graph.true[asked[:, 0], asked[:, 1]], -torch.inf)
    return 1 + (said > own).sum(1) + (said == own).sum(1) / 2


def mrr(model: nn.Module, graph: Graph, part: int) -> float:
    return float((1 / ranks(model, graph, part)).mean())


def fit(method: us.Method, graph: Graph, steps: int, seed: int, lr: float, decay: float) -> Embedding:
    optimizer = us.Optim("AdamW", lr=lr, schedule=us.cosine(1, 0), warmup=0.05, weight_decay=decay)
    settings = us.Settings(
        steps=steps, batch_size=256, optimizer=optimizer, seed=seed, validate_every=100, best="mrr", device="cpu"
    )
    us.train(method, graph.asked(0), settings, validate=lambda model: {"mrr": mrr(model, graph, 1)})
    return method.student.eval()


def scores(student: nn.Module, teacher: nn.Module, *, weight: float, structure: float = 0.0) -> us.Method:
    ends = ("student.head", "teacher.head", "student:entity.weight", "teacher:entity.weight", "batch.label")
    return us.Distillation(
        us.Term(cross_entropy, "student", "batch.label"),
        us.Term(triple_scores, "student", "teacher", weight=weight),
        us.Term(between_ends, *ends, weight=structure),
        student=student,
        teacher=teacher,
    )


def between_ends(
    student: Tensor, teacher: Tensor, student_table: Tensor, teacher_table: Tensor, tail: Tensor
) -> Tensor:
    return triple_structure(student, student_table[tail], teacher, teacher_table[tail])


Way = tuple[Callable[[nn.Module, nn.Module], us.Method], float]
"""How a student learns, and with what weight decay."""


def alone(student: nn.Module, teacher: nn.Module) -> us.Method:
    return us.methods.alone(student)


# What was best on the validation facts, in the mean over three other seeds.
TUNED: dict[str, dict[str, Way]] = {
    "TransE": {
        "teacher": (alone, 0.1),
        "student alone": (alone, 0.03),
        "kd": (partial(us.methods.kd, alpha=0.9, temperature=2), 0.03),
        "scores": (partial(scores, weight=0.03), 0.1),
        "scores and structure": (partial(scores, weight=0.1, structure=1), 0.03),
    },
    "DistMult": {
        "teacher": (alone, 1),
        "student alone": (alone, 0.3),
        "kd": (partial(us.methods.kd, alpha=0.5, temperature=1), 0.3),
        "scores": (partial(scores, weight=1), 0.03),
        "scores and structure": (partial(scores, weight=1, structure=3), 0.03),
    },
    "ComplEx": {
        "teacher": (alone, 1),
        "student alone": (alone, 0.3),
        "kd": (partial(us.methods.kd, alpha=0.9, temperature=2), 0.03),
        "scores": (partial(scores, weight=1), 0.1),
        "scores and structure": (partial(scores, weight=1, structure=1), 0.03),
    },
}


def judged(model: nn.Module, graph: Graph) -> dict[str, float]:
    found = ranks(model, graph, 2)
    return {"MRR": float((1 / found).mean()), "Hits@10": float((found <= 10).float().mean())}


def table(
    score: str, graph: Graph, seeds: Sequence[int], steps: int, width: int = 128
) -> dict[str, dict[str, list[float]]]:
    torch.manual_seed(0)
    ways = dict(TUNED[score])
    _, decay = ways.pop("teacher")
    teacher = fit(us.methods.alone(Embedding(score, graph.entities, width)), graph, steps, 0, 0.03, decay)
    found = {"teacher": {figure: [value] for figure, value in judged(teacher, graph).items()}}
    for seed in seeds:
        torch.manual_seed(seed)
        start = Embedding(score, graph.entities, width // 8)
        for name, (way, decay) in ways.items():
            model = fit(way(copy.deepcopy(start), teacher), graph, steps, seed, 0.1, decay)
            for figure, value in judged(model, graph).items():
                found.setdefault(name, {}).setdefault(figure, []).append(value)
    rows = [{"model": name, **{k: str(interval(v)) for k, v in figures.items()}} for name, figures in found.items()]
    sizes = " and ".join(f"{parameters(model):,}" for model in (teacher, start))
    screen = Console(width=80, highlight=False)
    screen.print(render(rows, COLUMNS, title=f"{score}: {sizes} parameters, {len(seeds)} seeds"))
    for name in list(ways)[1:]:
        for figure, values in found[name].items():
            screen.print(f"{name}: {figure} {told(values, found['student alone'][figure])}.", soft_wrap=True)
    screen.print()
    return found


def told(these: Sequence[float], those: Sequence[float]) -> str:
    test = paired(these, those)
    if test.difference.half is None:
        return "cannot be judged by one seed"
    word = {True: "helped", False: "hurt", None: "made no clear difference"}[test.better]
    return f"{test.difference.mean:+.3f} ± {test.difference.half:.3f}, p = {test.p_value:.2g}: {word}"


def main(
    names: Sequence[str] = tuple(SCORES), seeds: Sequence[int] = range(10), steps: int = 500
) -> dict[str, dict[str, dict[str, list[float]]]]:
    graph = Graph(facts())
    counts = [len(part) // 2 for part in graph.parts]
    print(TOLD)
    print(f"{sum(counts):,} facts of {graph.entities:,} entities, {counts[2]:,} of them for the test; {steps} steps.\n")
    return {name: table(name, graph, seeds, steps) for name in names}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
