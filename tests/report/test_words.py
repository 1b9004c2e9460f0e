import pytest

from understudy.report.words import cut, fit, left_out, printable


def test_a_long_name_keeps_its_beginning_and_its_end() -> None:
    names = ["Mediterranean tortoise 1", "Mediterranean tortoise 2"]
    assert [len(fit(name)) for name in names] == [13, 13]
    assert fit(names[0]) != fit(names[1])
    assert fit(names[0]).startswith("Mediter")


def test_a_short_name_stays() -> None:
    assert fit("cat") == "cat"
    assert fit("a" * 13) == "a" * 13


def test_signs_that_cannot_be_drawn_become_blanks() -> None:
    assert printable("a\nb\x00c\ud800d 猫") == "a b c d 猫"


def test_a_text_says_how_much_of_it_is_missing() -> None:
    assert cut("abcdef", 4) == "abcd … (2 more characters)"
    assert cut("abcd", 4) == "abcd"


@pytest.mark.parametrize(("there", "note"), [(2, ""), (1, ""), (3000, "The first 2 of 3,000 rows are shown.")])
def test_only_what_is_left_out_is_mentioned(there: int, note: str) -> None:
    assert left_out(min(2, there), there, "rows") == note
