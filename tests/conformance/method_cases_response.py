"""Methods of the models' last outputs."""

from __future__ import annotations

from understudy import methods

from .method_case import Case

PLAIN = {"weight": 0, "label_weight": 1}

CASES = {
    "logit_regression": Case(methods.logit_regression, plain={"alpha": 0}),
    "dkd": Case(methods.dkd, plain=PLAIN),
    "nkd": Case(methods.nkd, plain=PLAIN),
    "wsld": Case(methods.wsld, plain=PLAIN),
    "logit_standardization": Case(methods.logit_standardization, plain=PLAIN),
    "ctkd": Case(methods.ctkd, plain=PLAIN),
    "dist": Case(methods.dist, plain=PLAIN, per_sample=False),
    "mlkd": Case(methods.mlkd, plain=PLAIN, per_sample=False),
    "tf_kd": Case(lambda student, teacher, **options: methods.tf_kd(student, **options), plain={"alpha": 0}),
    "uskd": Case(lambda student, teacher, **options: methods.uskd(student, **options), plain=PLAIN, per_sample=False),
    "deit": Case(methods.deit, plain={"alpha": 0}),
    # The class to which a sample is moved is drawn for the batch as it is.
    "bss": Case(methods.bss, plain=PLAIN, per_sample=False),
}
