"""Named methods with the papers' defaults: each a function that returns a Method."""

from understudy.methods.ab import ab
from understudy.methods.adversarial_kd import adversarial_kd
from understudy.methods.aekd import aekd
from understudy.methods.alone import alone
from understudy.methods.ard import ard
from understudy.methods.attention_transfer import attention_transfer
from understudy.methods.bss import bss
from understudy.methods.byot import byot
from understudy.methods.ca_mkd import ca_mkd
from understudy.methods.cka import cka
from understudy.methods.correlation_congruence import correlation_congruence
from understudy.methods.crd import crd
from understudy.methods.crd_in_batch import crd_in_batch
from understudy.methods.cs_kd import cs_kd
from understudy.methods.ctkd import ctkd
from understudy.methods.cwd import cwd
from understudy.methods.dafl import dafl
from understudy.methods.deep_inversion import deep_inversion
from understudy.methods.deit import deit
from understudy.methods.dist import dist
from understudy.methods.dkd import dkd
from understudy.methods.dml import dml
from understudy.methods.domain_adaptation import domain_adaptation
from understudy.methods.ebkd import ebkd
from understudy.methods.ema_teacher import ema_teacher
from understudy.methods.factor_transfer import factor_transfer
from understudy.methods.feature_transfer import feature_transfer
from understudy.methods.fitnets import fitnets
from understudy.methods.fsp import fsp
from understudy.methods.gan_distillation import gan_distillation
from understudy.methods.hint_stages import hint_stages
from understudy.methods.ickd import ickd
from understudy.methods.joint import joint
from understudy.methods.kd import kd
from understudy.methods.kdsvd import kdsvd
from understudy.methods.local_structure import local_structure
from understudy.methods.logit_regression import logit_regression
from understudy.methods.logit_standardization import logit_standardization
from understudy.methods.mgd import mgd
from understudy.methods.minilm import minilm
from understudy.methods.minilmv2 import minilmv2
from understudy.methods.mlkd import mlkd
from understudy.methods.multi_teacher import multi_teacher
from understudy.methods.neighbour_graph import neighbour_graph
from understudy.methods.nkd import nkd
from understudy.methods.nst import nst
from understudy.methods.ofd import ofd
from understudy.methods.one import one
from understudy.methods.pkd import pkd
from understudy.methods.pkt import pkt
from understudy.methods.ps_kd import ps_kd
from understudy.methods.residual_hint import residual_hint
from understudy.methods.review_kd import review_kd
from understudy.methods.rkd import rkd
from understudy.methods.rslad import rslad
from understudy.methods.similarity_preserving import similarity_preserving
from understudy.methods.specialists import specialists
from understudy.methods.srd import srd
from understudy.methods.sskd import sskd
from understudy.methods.tf_kd import tf_kd
from understudy.methods.tinybert import tinybert
from understudy.methods.uskd import uskd
from understudy.methods.vid import vid
from understudy.methods.vitkd import vitkd
from understudy.methods.wsld import wsld

__all__ = [
    "ab",
    "adversarial_kd",
    "aekd",
    "alone",
    "ard",
    "attention_transfer",
    "bss",
    "byot",
    "ca_mkd",
    "cka",
    "correlation_congruence",
    "crd",
    "crd_in_batch",
    "cs_kd",
    "ctkd",
    "cwd",
    "dafl",
    "deep_inversion",
    "deit",
    "dist",
    "dkd",
    "dml",
    "domain_adaptation",
    "ebkd",
    "ema_teacher",
    "factor_transfer",
    "feature_transfer",
    "fitnets",
    "fsp",
    "gan_distillation",
    "hint_stages",
    "ickd",
    "joint",
    "kd",
    "kdsvd",
    "local_structure",
    "logit_regression",
    "logit_standardization",
    "mgd",
    "minilm",
    "minilmv2",
    "mlkd",
    "multi_teacher",
    "neighbour_graph",
    "nkd",
    "nst",
    "ofd",
    "one",
    "pkd",
    "pkt",
    "ps_kd",
    "residual_hint",
    "review_kd",
    "rkd",
    "rslad",
    "similarity_preserving",
    "specialists",
    "srd",
    "sskd",
    "tf_kd",
    "tinybert",
    "uskd",
    "vid",
    "vitkd",
    "wsld",
]
