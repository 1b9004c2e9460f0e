from __future__ import annotations

import math
import random

import pytest

from understudy.accept import Condition, parse
from understudy.errors import InputError

KNOWN = ["accuracy", "loss_nats", "latency_ms_p50", "latency_ms_p99", "size_mb", "parameters"]
NAN = math.nan


def one(text: str) -> Condition:
    (condition,) = parse({"accuracy": text})
    return condition


GOOD = [
    (">= 0.9", (">=", None, 0.0, 0.9), ">= 0.9"),
    (">=0.9", (">=", None, 0.0, 0.9), ">= 0.9"),
    ("  <=  2 ", ("<=", None, 0.0, 2.0), "<= 2"),
    ("> -0.5", (">", None, 0.0, -0.5), "> -0.5"),
    ("< +.5", ("<", None, 0.0, 0.5), "< +.5"),
    ("< 5.", ("<", None, 0.0, 5.0), "< 5."),
    ("< 1e-3", ("<", None, 0.0, 1e-3), "< 1e-3"),
    ("<= 2.5E+6", ("<=", None, 0.0, 2.5e6), "<= 2.5E+6"),
    ("> alone", (">", "alone", 1.0, 0.0), "> alone"),
    (">= teacher", (">=", "teacher", 1.0, 0.0), ">= teacher"),
    (">= 0.97 * teacher", (">=", "teacher", 0.97, 0.0), ">= 0.97 * teacher"),
    (">=0.97*teacher", (">=", "teacher", 0.97, 0.0), ">= 0.97 * teacher"),
    (">= teacher - 0.02", (">=", "teacher", 1.0, -0.02), ">= teacher - 0.02"),
    (">= teacher-0.02", (">=", "teacher", 1.0, -0.02), ">= teacher - 0.02"),
    ("<= teacher + 0.1", ("<=", "teacher", 1.0, 0.1), "<= teacher + 0.1"),
    ("<= 2 * alone + 1e-2", ("<=", "alone", 2.0, 0.01), "<= 2 * alone + 1e-2"),
]


@pytest.mark.parametrize(("text", "parts", "shown"), GOOD)
def test_what_the_grammar_allows_is_read_and_shown_in_one_form(text, parts, shown):
    condition = one(text)
    assert (condition.op, condition.model, condition.factor, condition.offset) == parts
    assert str(condition) == f"accuracy {shown}"
    assert one(shown) == condition


BAD = [
    ("", "is empty"),
    ("   ", "is empty"),
    ("0.9", "does not begin with >=, <=, > or <"),
    ("teacher", "does not begin with"),
    ("= 0.9", "does not begin with"),
    ("== 0.9", "does not begin with"),
    ("!= 0.9", "does not begin with"),
    ("=> 0.9", "does not begin with"),
    ("=< 0.9", "does not begin with"),
    ("≥ 0.9", "does not begin with"),
    ("at least 0.9", "does not begin with"),
    (">= 97%", "has a percentage; a share is a number, such as 0.97 for 97 %"),
    (">= 97 % * teacher", "has a percentage"),
    ("<= 2 ms", "has a unit; that is in the figure's name, as in latency_ms_p50"),
    ("<= 2ms", "has a unit"),
    ("<= 1.5 MB", "has a unit"),
    ("<= 30 µs", "has a unit"),
    (">= 0,97", "has a comma"),
    (">= 0.97 teacher", r"has no '\*' between factor and model"),
    (">= 0.97teacher", r"has no '\*'"),
    (">= teacher * 0.97", "has its factor behind the model"),
    (">= 0.9 and <= 1", "holds several conditions; a figure has one"),
    (">= 0.9, <= 1", "holds several"),
    (">= 0.9 & > alone", "holds several"),
    (">= techer", "'techer' is not a model to compare with. Did you mean 'teacher'?"),
    (">= 0.9 * Teacher", "'Teacher' is not a model to compare with. Did you mean 'teacher'?"),
    ("> aline", "Did you mean 'alone'?"),
    ("> student", "'student' is not a model to compare with. Allowed: teacher, alone"),
    (">= nan", "'nan' is not a model"),
    ("<= inf", "'inf' is not a model"),
    (">= -inf", "is not a condition"),
    (">= 1e999", "a number is too large"),
    (">= 1e999 * teacher", "a number is too large"),
    (">= teacher - 1e999", "a number is too large"),
    (">=", "is not a condition"),
    ("> = 3", "is not a condition"),
    (">> 3", "is not a condition"),
    (">= 0.9 *", "is not a condition"),
    (">= * teacher", "is not a condition"),
    (">= 0.9 * 2", "is not a condition"),
    (">= 0.9 + teacher", "is not a condition"),
    (">= -0.97 * teacher", "is not a condition"),
    (">= teacher -", "is not a condition"),
    (">= teacher - -0.1", "is not a condition"),
    (">= teacher - alone", "is not a condition"),
    (">= teacher / 2", "is not a condition"),
    (">= (teacher)", "is not a condition"),
    (">= 1 000", "is not a condition"),
    (">= 1_000", "is not a condition"),
    (">= 0.9.1", "is not a condition"),
    (">= __import__('os')", "is not a condition"),
]


@pytest.mark.parametrize(("text", "told"), BAD)
def test_what_the_grammar_does_not_allow_is_refused_in_the_users_words(text, told):
    with pytest.raises(InputError, match=told) as error:
        one(text)
    assert str(error.value).startswith(f"accept['accuracy']: {text!r}")
    if "model to compare" not in str(error.value) and "too large" not in str(error.value):
        assert str(error.value).endswith("such as 'teacher', '0.97 * teacher', 'alone + 0.02'.")


@pytest.mark.parametrize("value", [0.9, 1, True, None, (">=", 0.9), [">= 0.9"]])
def test_what_is_not_a_text_is_refused(value):
    with pytest.raises(InputError, match=r"is not a condition. Write a string such as '>= "):
        parse({"accuracy": value})


def test_any_text_is_read_or_refused_and_nothing_else():
    draw = random.Random(0)
    pieces = [
        ">=",
        "<=",
        ">",
        "<",
        "=",
        " ",
        "  ",
        "1",
        "0.5",
        ".",
        "e9",
        "e",
        "*",
        "+",
        "-",
        "teacher",
        "alone",
        "%",
        "x",
        "é",
        "\n",
    ]
    read = 0
    for _ in range(20_000):
        text = "".join(draw.choices(pieces, k=draw.randint(0, 8)))
        try:
            condition = one(text)
        except InputError:
            continue
        read += 1
        assert condition.op in (">=", "<=", ">", "<")
        assert math.isfinite(condition.factor)
        assert math.isfinite(condition.offset)
        assert one(str(condition).removeprefix("accuracy ")) == condition
    assert read > 100


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("acuracy", "'acuracy' is not a figure of this run. Did you mean 'accuracy'?"),
        ("latency", "Did you mean 'latency_ms_p50' or 'latency_ms_p99'?"),
        ("latency_ms", "Did you mean 'latency_ms_p50' or 'latency_ms_p99'?"),
        ("size", "Did you mean 'size_mb'?"),
        ("size_kb", "Did you mean 'size_mb'?"),
        ("loss", "Did you mean 'loss_nats'?"),
        ("energy", "Allowed: accuracy, loss_nats, latency_ms_p50"),
    ],
)
def test_a_figure_that_the_run_does_not_give_is_refused_with_the_nearest_and_its_unit(name, told):
    with pytest.raises(InputError, match="accept: ") as error:
        parse({name: "<= 1"}, KNOWN)
    assert told in str(error.value)


def test_names_are_not_checked_where_none_are_known():
    assert parse({"anything": "> 1"})[0].name == "anything"


def test_every_problem_is_told_at_once():
    with pytest.raises(InputError) as error:
        parse({"accuracy": ">= 0.9", "latency": "<= 2 ms", "size_mb": 1, "loss_nats": "< alne"}, KNOWN)
    lines = str(error.value).splitlines()
    assert len(lines) == 4
    starts = ["accept: 'latency'", "accept['latency']: '<= 2 ms'", "accept['size_mb']: 1 is", "accept['loss_nats']"]
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=True)] == [True] * 4


def test_conditions_keep_the_order_in_which_they_were_given():
    accept = {"size_mb": "<= 1", "accuracy": ">= 0.97 * teacher", "loss_nats": "< alone"}
    assert [c.name for c in parse(accept, KNOWN)] == list(accept)
    assert parse(None) == parse({}) == []


# -- check -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value", "met"),
    [
        (">= 0.9", 0.9, True), ("> 0.9", 0.9, False), ("<= 0.9", 0.9, True), ("< 0.9", 0.9, False),
        (">= 0.9", 0.91, True), ("> 0.9", 0.91, True), ("<= 0.9", 0.91, False), ("< 0.9", 0.91, False),
        (">= 0.9", 0.89, False), ("> 0.9", 0.89, False), ("<= 0.9", 0.89, True), ("< 0.9", 0.89, True),
        (">= teacher", 0.8, True), ("> teacher", 0.8, False), (">= 0.5 * teacher", 0.39, False), (">= 0.5 * teacher", 0.41, True),
        (">= teacher - 0.1", 0.69, False), (">= teacher - 0.1", 0.71, True), ("<= 0.5 * alone + 0.1", 0.4, True),
        ("<= 0.5 * alone + 0.1", 0.41, False), ("> alone", 0.61, True), ("> alone", 0.59, False),
    ],
)  # fmt: skip
def test_a_figure_is_compared_with_the_limit(text, value, met):
    assert one(text).check(value, teacher=0.8, alone=0.6)[0] is met


@pytest.mark.parametrize(("op", "met"), [(">=", True), ("<=", True), (">", False), ("<", False)])
def test_what_is_equal_up_to_rounding_is_equal(op, met):
    assert 3 * 0.1 != 0.3
    assert one(f"{op} 3 * teacher").check(0.3, teacher=0.1)[0] is met
    assert one(f"{op} 3 * teacher").check(0.3 + 1e-9, teacher=0.1)[0] is (op in (">", ">="))


@pytest.mark.parametrize(
    ("text", "value", "told"),
    [
        (">= 0.97 * teacher", 0.971, "accuracy 0.971 >= 0.97 * teacher = 0.960: met"),
        (">= 0.97 * teacher", 0.95, "accuracy 0.950 >= 0.97 * teacher = 0.960: not met"),
        ("> alone", 0.95, "accuracy 0.950 > alone = 0.924: met"),
        ("<= 2", 1.5, "accuracy 1.500 <= 2: met"),
        ("<= 2e6", 57_123, "accuracy 57123 <= 2e6: met"),
        ("<= 0.001", 0.000123456, "accuracy 0.000123 <= 0.001: met"),
        ("<= 0.9", 0.90000004, "accuracy 0.90000004 <= 0.9: not met"),
        ("<= 1000", 1000.2, "accuracy 1000.2 <= 1000: not met"),
        ("> alone", 0.92400001, "accuracy 0.92400001 > alone = 0.92400000: met"),
        (">= 0", 0.0, "accuracy 0.000 >= 0: met"),
        ("<= 1", math.inf, "accuracy inf <= 1: not met"),
    ],
)
def test_the_sentence_says_both_numbers_in_digits_that_tell_them_apart(text, value, told):
    assert one(text).check(value, teacher=0.99, alone=0.924) == (told.endswith(": met"), told)


@pytest.mark.parametrize("op", [">=", "<=", ">", "<"])
@pytest.mark.parametrize("missing", [None, NAN])
def test_what_was_not_measured_meets_nothing(op, missing):
    assert one(f"{op} 1").check(missing) == (
        False,
        f"accuracy {op} 1: not met, for there is no accuracy of the student",
    )
    told = f"accuracy {op} teacher: not met, for there is no accuracy of teacher"
    assert one(f"{op} teacher").check(0.9, teacher=missing, alone=0.5) == (False, told)
    assert one(f"{op} alone").check(0.9, teacher=0.5, alone=missing)[0] is False
    assert one(">= 0.5").check(0.9, teacher=missing, alone=missing)[0] is True
