"""The grammar of addresses."""

from __future__ import annotations

import itertools

import pytest

from understudy.address import GRAMMAR, Address
from understudy.errors import AddressError

PARSED = {
    "student": Address("student"),
    "_a1": Address("_a1"),
    "stopwatch": Address("stopwatch"),
    "batcher@weak": Address("batcher", view="weak"),
    "teacher.layer3": Address("teacher", module="layer3"),
    "teacher.encoder.layer.2.attention": Address("teacher", module="encoder.layer.2.attention"),
    "teacher.0": Address("teacher", module="0"),
    "teacher.conv-1x1": Address("teacher", module="conv-1x1"),
    "student.block#1": Address("student", module="block", call=1),
    "student.block#0": Address("student", module="block", call=0),
    "student.a.b#12/0": Address("student", module="a.b", call=12, keys=(0,)),
    "student.head<": Address("student", module="head", enters=True),
    "stop b@weak.0.a-b#1</0": Address("b", stop=True, view="weak", module="0.a-b", call=1, keys=(0,), enters=True),
    "student:lm_head.weight": Address("student", parameter="lm_head.weight"),
    "student@strong:fc.weight": Address("student", view="strong", parameter="fc.weight"),
    "teacher/logits": Address("teacher", keys=("logits",)),
    "teacher/hidden_states/2": Address("teacher", keys=("hidden_states", 2)),
    "teacher/hidden_states/-1": Address("teacher", keys=("hidden_states", -1)),
    "teacher.rnn/1/0": Address("teacher", module="rnn", keys=(1, 0)),
    "stop student.layer4": Address("student", stop=True, module="layer4"),
    "stop   student": Address("student", stop=True),
    "stop b@weak.layer2#1/x/0": Address("b", stop=True, view="weak", module="layer2", call=1, keys=("x", 0)),
    "batch": Address("batch"),
    "batch.label": Address("batch", module="label"),
    "batch.target.boxes": Address("batch", module="target.boxes"),
    "stop batch.image": Address("batch", stop=True, module="image"),
    "batch/2": Address("batch", keys=(2,)),
    "  student.fc ": Address("student", module="fc"),
}

REFUSED = [
    "",
    " ",
    ".layer",
    "3layer",
    "student.",
    "student..fc",
    "student.fc.",
    "student fc",
    "student.fc fc",
    "student@",
    "student@1",
    "student@a@b",
    "student#0",
    "student.fc#",
    "student.fc#a",
    "student.fc#-1",
    "student.fc#0#1",
    "student.fc:weight",
    "student<",
    "student.<",
    "student.fc<<",
    "student.fc<#0",
    "student.fc<.a",
    "student.fc/0<a b",
    "batch.label<",
    "student:",
    "student:fc#0",
    "student/",
    "student//0",
    "student/a b",
    "student.fc@weak",
    "stop",
    "stop stop student",
    "stop.layer",
    "stop\tstudent",
    "student\nteacher",
    "batch@weak",
    "batch@weak.label",
    "batch.label#0",
    "batch:label",
]


def texts() -> list[str]:
    """Every combination of the grammar's parts."""
    of_models = itertools.product(
        ["", "stop "], ["student", "_m2"], ["", "@weak"], ["", ".fc", ".0.a-b#0", ".a.b.c#10", ".fc<", ".a.b#2<", ":fc.weight"],
        ["", "/0", "/-2/logits", "/a.b#c:d@e", "/00/-0/--1/1.5/²"],
    )  # fmt: skip
    of_batch = itertools.product(["", "stop "], ["batch"], ["", ".label", ".a.b"], ["", "/2", "/label/0"])
    return ["".join(parts) for parts in [*of_models, *of_batch]]


@pytest.mark.parametrize("text", PARSED)
def test_an_address_parses_into_its_parts(text: str) -> None:
    assert Address.parse(text) == PARSED[text]


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_address_is_refused_with_the_users_own_text(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        Address.parse(text)
    assert f"address {text!r}:" in str(caught.value)


@pytest.mark.parametrize("given", [None, 3, ["student"], ("student",), {"student": 1}, Address("student")])
def test_what_is_no_string_is_refused_even_if_it_cannot_be_hashed(given: object) -> None:
    with pytest.raises(AddressError, match=f"is a {type(given).__name__}; an address is a string"):
        Address.parse(given)  # type: ignore[arg-type]


def test_an_address_that_does_not_parse_is_answered_with_the_grammar() -> None:
    with pytest.raises(AddressError) as caught:
        Address.parse("student..fc")
    assert GRAMMAR in str(caught.value)


@pytest.mark.parametrize("text", ["batch@weak", "batch.label#0", "batch.label<", "batch:label"])
def test_a_batch_is_said_to_have_fields_only(text: str) -> None:
    with pytest.raises(AddressError, match=r"fields only, as in 'batch\.label'"):
        Address.parse(text)


def test_stop_by_itself_is_told_what_it_lacks() -> None:
    with pytest.raises(AddressError, match="'stop' wants an address behind it"):
        Address.parse("stop")


def test_every_combination_of_parts_is_written_as_it_was_read() -> None:
    assert len(texts()) > 200
    assert [str(Address.parse(text)) for text in texts()] == texts()


@pytest.mark.parametrize("text", PARSED)
def test_what_is_written_parses_to_the_same_address(text: str) -> None:
    assert Address.parse(str(Address.parse(text))) == Address.parse(text)


def test_an_address_that_forgot_a_part_would_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Address.__str__
    for part in ("#", "/", "@", ":", "stop ", "<"):
        with monkeypatch.context() as patch:
            patch.setattr(Address, "__str__", lambda self, part=part: whole(self).split(part)[0])
            with pytest.raises(AssertionError):
                test_every_combination_of_parts_is_written_as_it_was_read()


def test_only_what_int_gives_back_unchanged_is_a_number() -> None:
    assert Address.parse("s/0/12/-3").keys == (0, 12, -3)
    assert Address.parse("s/00/-0/--1/1_0/1.5/²/٣").keys == ("00", "-0", "--1", "1_0", "1.5", "²", "٣")


def test_equal_texts_give_one_key_in_a_dictionary() -> None:
    assert {Address.parse("stop  a.b"): 1} == {Address.parse("stop a.b"): 1}
    assert len({Address.parse("a.b"), Address.parse("stop a.b"), Address.parse("a.b#0"), Address.parse("a:b")}) == 4


def test_an_address_knows_whether_it_is_the_batchs() -> None:
    assert Address.parse("batch.label").of_batch
    assert not Address.parse("batches.label").of_batch


def test_a_parameter_has_no_row_for_each_sample() -> None:
    assert Address.parse("student.fc").per_sample
    assert Address.parse("batch.label").per_sample
    assert not Address.parse("student:fc.weight").per_sample
