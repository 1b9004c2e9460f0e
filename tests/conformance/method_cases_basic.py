"""The first methods: labels alone, soft labels, and one hint."""

from __future__ import annotations

from understudy import methods

from .method_case import Case

CASES = {
    "alone": Case(lambda student, teacher: methods.alone(student), why_not_plain="it is plain"),
    "kd": Case(methods.kd, plain={"alpha": 0}),
    "fitnets": Case(
        lambda student, teacher, **options: methods.fitnets(
            student, teacher, student_layer="layer2", teacher_layer="layer3", **options
        ),
        plain={"weight": 0},
    ),
}
