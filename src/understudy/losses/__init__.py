"""Losses: pure functions of tensors.

Each returns one value for every sample (or token), or a scalar if it is a loss of the batch as a whole. None has a
``reduction``, none has a weight against another term, none cuts a gradient that its formula does not cut:
:class:`understudy.Term` reduces, weighs and masks, and an address says ``stop``. All maths in float32 or the input's own
dtype if that is wider, whatever autocast says; all logarithms natural.

The first argument is what learns.
"""

from understudy.losses.ab import ab
from understudy.losses.angle import rkd_angle
from understudy.losses.attention import (
    attention_map,
    attention_probabilities,
    attention_relation,
    attention_scores,
    relation_values,
)
from understudy.losses.binary import binary_cross_entropy, binary_kl
from understudy.losses.camkd import CAMKD
from understudy.losses.consistency import consistency
from understudy.losses.contrastive import CRD, crd_in_batch
from understudy.losses.correlation import batch_correlation, class_correlation, dist_inter, dist_intra
from understudy.losses.curriculum import CTKD
from understudy.losses.cwd import cwd
from understudy.losses.decoupled import dkd, nkd
from understudy.losses.domain import DomainCritic, coral, mmd
from understudy.losses.exits import BYOT, ONE
from understudy.losses.factors import FactorTransfer
from understudy.losses.feature import cosine, masked_l2, mse, squared_sum
from understudy.losses.fsp import FSP, fsp
from understudy.losses.ft import ft
from understudy.losses.generated import (
    activation,
    batch_norm_statistics,
    information_entropy,
    l1,
    one_hot,
    total_variation,
)
from understudy.losses.graph import local_structure, neighbour_graph, triple_scores, triple_structure, view_relations
from understudy.losses.hcl import hcl
from understudy.losses.kdsvd import KDSVD, kdsvd
from understudy.losses.mgd import MGD
from understudy.losses.nst import nst
from understudy.losses.ofd import ofd
from understudy.losses.pkd import pkd
from understudy.losses.pskd import PSKD
from understudy.losses.regression import squared_error
from understudy.losses.relation import cka, correlation_congruence, ickd, pkt, rkd_distance, similarity
from understudy.losses.residual import ResidualHint, residual
from understudy.losses.response import (
    cross_entropy,
    hard_label,
    kl,
    kl_multi_temperature,
    kl_standardized,
    soft_cross_entropy,
)
from understudy.losses.review import ReviewKD
from understudy.losses.several import aekd, average_kl, ca_mkd, ebkd, specialist_kl
from understudy.losses.srd import SRD
from understudy.losses.unaided import cs_kd, ps_kd, tf_kd, uskd
from understudy.losses.vid import VID
from understudy.losses.vitkd import ViTKD
from understudy.losses.weighted import wsld

__all__ = [
    "BYOT",
    "CAMKD",
    "CRD",
    "CTKD",
    "FSP",
    "KDSVD",
    "MGD",
    "ONE",
    "PSKD",
    "SRD",
    "VID",
    "DomainCritic",
    "FactorTransfer",
    "ResidualHint",
    "ReviewKD",
    "ViTKD",
    "ab",
    "activation",
    "aekd",
    "attention_map",
    "attention_probabilities",
    "attention_relation",
    "attention_scores",
    "average_kl",
    "batch_correlation",
    "batch_norm_statistics",
    "binary_cross_entropy",
    "binary_kl",
    "ca_mkd",
    "cka",
    "class_correlation",
    "consistency",
    "coral",
    "correlation_congruence",
    "cosine",
    "crd_in_batch",
    "cross_entropy",
    "cs_kd",
    "cwd",
    "dist_inter",
    "dist_intra",
    "dkd",
    "ebkd",
    "fsp",
    "ft",
    "hard_label",
    "hcl",
    "ickd",
    "information_entropy",
    "kdsvd",
    "kl",
    "kl_multi_temperature",
    "kl_standardized",
    "l1",
    "local_structure",
    "masked_l2",
    "mmd",
    "mse",
    "neighbour_graph",
    "nkd",
    "nst",
    "ofd",
    "one_hot",
    "pkd",
    "pkt",
    "ps_kd",
    "relation_values",
    "residual",
    "rkd_angle",
    "rkd_distance",
    "similarity",
    "soft_cross_entropy",
    "specialist_kl",
    "squared_error",
    "squared_sum",
    "tf_kd",
    "total_variation",
    "triple_scores",
    "triple_structure",
    "uskd",
    "view_relations",
    "wsld",
]
