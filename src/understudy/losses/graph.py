"""Losses on graphs: of a batch's samples, of nodes, of knowledge. Shapes: N samples or nodes, D features, E edges, K candidates."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.errors import InputError, ShapeError
from understudy.losses.arithmetic import exact, same_shape
from understudy.losses.relation import directions, same_samples, scaled, vectors

__all__ = [
    "complex_score",
    "distmult",
    "local_structure",
    "neighbour_graph",
    "transe",
    "triple_scores",
    "triple_structure",
    "view_relations",
]


@exact
def neighbour_graph(student: Tensor, teacher: Tensor, *, neighbours: int = 8) -> Tensor:
    r"""Squared difference of the edge weights of the graph that joins each sample to the nearest of the batch.

    .. math:: \frac{1}{N} \left\| A^t - A^s \right\|_F^2, \quad
              A = D^{-1/2} W D^{-1/2},\ W_{ij} = \tfrac{1}{2} (1 + \cos(x_i, x_j)) \text{ on the teacher's edges},\ D = \mathrm{diag}(W 1)

    Args:
        student: ``[N, D]``, or tokens ``[N, T, D]`` or maps ``[N, C, *area]``, of which the mean is taken.
        teacher: the same, of any size. An edge joins two samples of which either is among the other's nearest here.
        neighbours: of each sample, 1 or more; N - 1 of them at most.

    Returns: a scalar, without unit, >= 0, and 0 where the student's weights are the teacher's.
    Raises: ShapeError if the numbers of samples differ; InputError if neighbours is below 1.
    Scale: free of the features' scale and of the batch's size.
    Family: graph.
    Source: Lassance et al. 2020, arXiv:1911.03080, section 3.
    Differs: its code takes the cosine itself, of features that are never negative, for the weight, and a mean over N²; here
        its weight of 25 at 128 samples would be 0.2.
    See also: similarity, local_structure.

    >>> neighbour_graph(torch.eye(3), torch.tensor([[1., 0.], [1., .1], [0., 1.]]), neighbours=1)
    tensor(0.0143)
    """
    same_samples("neighbour_graph", student, teacher)
    if neighbours < 1:
        raise InputError(f"neighbour_graph: neighbours {neighbours!r} must be 1 or more.")
    ours, theirs = _likeness(student), _likeness(teacher)
    edges = _nearest(theirs.detach(), neighbours)
    gap = _evened(theirs * edges) - _evened(ours * edges)
    return gap.square().sum() / max(gap.shape[0], 1)


def _likeness(x: Tensor) -> Tensor:
    unit = directions(scaled(vectors(x)))
    return (1 + unit @ unit.T).clamp(min=0) / 2


def _nearest(likeness: Tensor, neighbours: int) -> Tensor:
    """Where there is an edge, as 0 and 1."""
    count = likeness.shape[0]
    apart = likeness - torch.diag(torch.full_like(likeness.diagonal(), math.inf))
    near = apart.topk(min(neighbours, max(count - 1, 0)), dim=1).indices
    edges = torch.zeros_like(likeness).scatter(1, near, 1.0)
    return torch.maximum(edges, edges.T)


def _evened(weights: Tensor) -> Tensor:
    degree = weights.sum(1)
    root = degree.masked_fill(degree <= 1e-12, math.inf).rsqrt()
    return root[:, None] * weights * root


@exact
def local_structure(student: Tensor, teacher: Tensor, edges: Tensor, *, width: float = 100.0) -> Tensor:
    r"""KL divergence of how a node's neighbours share its attention, by their distance.

    .. math:: \sum_{j \in \mathcal{N}(i)} p_{ij} \log \frac{p_{ij}}{q_{ij}}, \quad
              p_{ij} = \frac{e^{k(t_i, t_j)}}{\sum_{l \in \mathcal{N}(i)} e^{k(t_i, t_l)}},\ k(x, y) = e^{-\|x - y\|_1 / w}

    Args:
        student: embeddings of the nodes ``[N, D]``.
        teacher: embeddings of the same nodes ``[N, D']``.
        edges: ``[2, E]``, from the first row's nodes to the second's; those that point at a node are its neighbours.
        width: w > 0, the distance over which the kernel falls to 1/e.

    Returns: one value per node ``[N]``, in nats, >= 0, and 0 where the neighbours are shared alike, or there are none.
    Raises: ShapeError if the numbers of nodes differ or edges is no pair of rows; InputError if the width is not above 0, or
        an edge (on the CPU) joins what is no node.
    Scale: small, as the kernel lies between 0 and 1; a weight of 100 makes it count beside labels. Free of the number of nodes.
    Family: graph.
    Source: Yang et al. 2020 (LSP), arXiv:2003.10477, section 3, with the kernel of its code.
    Differs: the paper's Gaussian kernel falls with the squared distance, and its divergence goes the other way.
    See also: neighbour_graph.

    >>> edges = torch.tensor([[1, 2], [0, 0]])
    >>> local_structure(torch.tensor([[0.], [1.], [1.]]), torch.tensor([[0.], [0.], [1.]]), edges, width=1.0)
    tensor([0.0476, 0.0000, 0.0000])
    """
    if student.ndim != 2 or teacher.ndim != 2 or student.shape[0] != teacher.shape[0]:
        raise ShapeError(
            f"local_structure: shapes {list(student.shape)} (student) and {list(teacher.shape)} (teacher) do not go together; "
            "allowed: embeddings [N, D] of the same nodes."
        )
    if edges.ndim != 2 or edges.shape[0] != 2 or edges.is_floating_point():
        raise ShapeError(f"local_structure: edges {list(edges.shape)} of {edges.dtype}; allowed: integers [2, E].")
    if not 0 < width < math.inf:
        raise InputError(f"local_structure: width {width!r} must be finite and above 0.")
    if edges.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_nodes(edges, student.shape[0])
    log_q, log_p = (_log_share(x, edges, width) for x in (student, teacher))
    summand = log_p.exp() * (log_p - log_q)
    return student.new_zeros(student.shape[0]).index_add(0, edges[1], summand)


def _check_nodes(edges: Tensor, nodes: int) -> None:
    if edges.numel() and not 0 <= int(edges.min()) <= int(edges.max()) < nodes:
        raise InputError(
            f"local_structure: edges join nodes {int(edges.min())} to {int(edges.max())}; allowed: 0..{nodes - 1}."
        )


def _log_share(x: Tensor, edges: Tensor, width: float) -> Tensor:
    """Log-softmax of the kernel over the edges that point at one node. The kernel is in [0, 1], so that exp is safe."""
    kernel = (-(x[edges[0]] - x[edges[1]]).abs().sum(1) / width).exp()
    total = x.new_zeros(x.shape[0]).index_add(0, edges[1], kernel.exp())
    return kernel - total[edges[1]].log()


@exact
def view_relations(
    student: Tensor, student_view: Tensor, teacher: Tensor, teacher_view: Tensor, *, temperature: float = 0.5
) -> Tensor:
    r"""KL divergence of how like an altered view of a sample is to the originals of all.

    .. math:: \frac{T^2}{M} \sum_{ij} p_{ij} \log \frac{p_{ij}}{q_{ij}}, \quad
              p_{ij} = \mathrm{softmax}_j\!\left( \cos(\tilde t_i, t_j) / T \right),\ q \text{ likewise of } s

    Args:
        student: of the samples as they are, ``[N, D]``, tokens ``[N, T, D]`` or maps ``[N, C, *area]``, of which the mean is taken.
        student_view: of the altered samples, M of them, with as many features.
        teacher: the teacher's of the samples as they are, of any size.
        teacher_view: the teacher's of the altered samples.
        temperature: T > 0.

    Returns: a scalar, in nats, >= 0, and 0 where both see the same relations.
    Raises: ShapeError if samples or features do not go together; InputError if the temperature is not positive and finite.
    Scale: times T²; the usual weight is 10. It grows slowly with the batch.
    Family: contrastive.
    Source: Xu et al. 2020 (SSKD), arXiv:2006.07114, section 3.
    Differs: every view counts, where the original leaves out the quarter of the wrong ones that the teacher ranks worst.
    See also: similarity, crd_in_batch.

    >>> x, y = torch.eye(2), torch.tensor([[1., 1.], [0., 1.]])
    >>> view_relations(x, x, y, y)
    tensor(0.0475)
    """
    same_samples("view_relations", student, teacher)
    same_samples("view_relations", student_view, teacher_view)
    if not 0 < temperature < math.inf:
        raise InputError(f"view_relations: temperature {temperature!r} must be finite and above 0; 0.5 is usual.")
    log_q, log_p = (
        F.log_softmax(_to_originals(*pair) / temperature, dim=1)
        for pair in ((student, student_view), (teacher, teacher_view))
    )
    return (log_p.exp() * (log_p - log_q)).sum() * (temperature * temperature) / max(log_p.shape[0], 1)


def _to_originals(x: Tensor, view: Tensor) -> Tensor:
    originals, altered = vectors(x), vectors(view)
    if originals.shape[1] != altered.shape[1]:
        raise ShapeError(
            f"view_relations: {list(x.shape)} and their views {list(view.shape)} differ in their number of features."
        )
    return directions(scaled(altered)) @ directions(scaled(originals)).T


# -- knowledge graphs --------------------------------------------------------------------------------------------------


def transe(head: Tensor, relation: Tensor, tail: Tensor, *, norm: float = 1.0) -> Tensor:
    """Score of triples, higher for what is rather true: minus the distance from head + relation to tail ``[*N]``.

    Source: Bordes et al. 2013, "Translating embeddings for modeling multi-relational data".

    >>> transe(torch.tensor([1., 0.]), torch.tensor([0., 1.]), torch.tensor([1., 3.]))
    tensor(-2.)
    """
    distance: Tensor = torch.linalg.vector_norm(head + relation - tail, ord=norm, dim=-1)
    return -distance


def distmult(head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
    """Score of triples, higher for what is rather true: the sum of the product of all three ``[*N]``.

    Source: Yang et al. 2015, arXiv:1412.6575.

    >>> distmult(torch.tensor([1., 2.]), torch.tensor([1., 1.]), torch.tensor([1., 3.]))
    tensor(7.)
    """
    return (head * relation * tail).sum(-1)


def complex_score(head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
    """Score of triples, higher for what is rather true: Re <head, relation, conjugate tail> ``[*N]``.

    Each embedding is of 2 D numbers: D real parts, then D imaginary ones.

    Source: Trouillon et al. 2016 (ComplEx), arXiv:1606.06357.

    >>> complex_score(torch.tensor([0., 1.]), torch.tensor([0., 1.]), torch.tensor([-1., 0.]))
    tensor(1.)
    """
    (a, b), (c, d), (e, f) = (x.chunk(2, dim=-1) for x in (head, relation, tail))
    return ((a * c - b * d) * e + (a * d + b * c) * f).sum(-1)


@exact
def triple_scores(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Huber distance of the scores of triples.

    .. math:: \frac{1}{K} \sum_k \ell_1(s_k - t_k), \quad
              \ell_1(x) = \tfrac{1}{2} x^2 \text{ if } |x| < 1 \text{ else } |x| - \tfrac{1}{2}

    Args:
        student: scores ``[N, *K]`` of a triple and its corruptions, as of :func:`~understudy.losses.graph.transe`,
            :func:`~understudy.losses.graph.distmult` or :func:`~understudy.losses.graph.complex_score`.
        teacher: the teacher's scores of the same triples, by the same or another function.

    Returns: one value per triple ``[N]``, in the unit of the scores, >= 0, and 0 where they are equal.
    Raises: ShapeError if the shapes differ.
    Scale: free of the batch's size and of the number of candidates.
    Family: graph.
    Source: Zhu et al. 2022 (DualDE), arXiv:2009.05912, section 3.2.
    Differs: soft and hard labels are not weighed by each other's evaluation of a triple.
    See also: triple_structure, kl, which compares the ranking among candidates only.

    >>> triple_scores(torch.tensor([[1., 0.]]), torch.tensor([[3., 0.]]))
    tensor([0.7500])
    """
    same_shape("triple_scores", student, teacher, "Both models must score the same triples.")
    each = F.smooth_l1_loss(student, teacher, reduction="none")
    return each if each.ndim < 2 else each.flatten(1).mean(1)


@exact
def triple_structure(student_head: Tensor, student_tail: Tensor, teacher_head: Tensor, teacher_tail: Tensor) -> Tensor:
    r"""Huber distance of the angle and of the ratio of lengths between a triple's two entities.

    .. math:: \ell_1\!\left( \cos(h^s, t^s) - \cos(h^t, t^t) \right)
              + \ell_1\!\left( \frac{|h^s|}{|h^s| + |t^s|} - \frac{|h^t|}{|h^t| + |t^t|} \right)

    Args:
        student_head: the student's embeddings of the heads ``[*N, D]``.
        student_tail: of the tails ``[*N, D]``.
        teacher_head: the teacher's, of any other size ``[*N, D']``.
        teacher_tail: of the tails ``[*N, D']``.

    Returns: one value per triple ``[*N]``, without unit, >= 0, and 0 where angle and lengths agree.
    Raises: ShapeError if the numbers of triples, or the sizes within a model, differ.
    Scale: free of the embeddings' scale and of the batch's size; at most 2.
    Family: graph.
    Source: Zhu et al. 2022 (DualDE), arXiv:2009.05912, section 3.2.
    Differs: the paper's ratio |h| / |t| has no bound where a tail is near 0; the share of the sum tells the same.
    See also: triple_scores.

    >>> h, t = torch.tensor([[1., 0.]]), torch.tensor([[0., 1.]])
    >>> triple_structure(h, t, h, h)
    tensor([0.5000])
    """
    shapes = [list(x.shape) for x in (student_head, student_tail, teacher_head, teacher_tail)]
    if shapes[0] != shapes[1] or shapes[2] != shapes[3] or shapes[0][:-1] != shapes[2][:-1]:
        raise ShapeError(
            f"triple_structure: shapes {shapes[0]}, {shapes[1]} (student) and {shapes[2]}, {shapes[3]} (teacher) do not go "
            "together; allowed: heads and tails [*N, D] of the student and [*N, D'] of the teacher."
        )
    ours, theirs = _between(student_head, student_tail), _between(teacher_head, teacher_tail)
    return F.smooth_l1_loss(ours, theirs, reduction="none").sum(-1)


def _between(head: Tensor, tail: Tensor) -> Tensor:
    """The cosine and the head's share of both lengths ``[*N, 2]``."""
    lengths = [torch.linalg.vector_norm(x, dim=-1) for x in (head, tail)]
    both = lengths[0] + lengths[1]
    share = lengths[0] / both.masked_fill(both <= 1e-12, math.inf)
    return torch.stack([(directions(head) * directions(tail)).sum(-1), share], -1)
