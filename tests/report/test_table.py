import io

from rich.console import Console

from understudy.report import Column, render


def shown(width: int = 60) -> str:
    rows = [{"model": "alone", "accuracy": 0.5, "gap": None}, {"model": "kept", "accuracy": 0.75, "gap": 0.8}]
    columns = [Column("model", "model"), Column("accuracy", "accuracy", "{:.2f}"), Column("gap", "gap", "{:.0%}")]
    screen = io.StringIO()
    Console(width=width, file=screen).print(render(rows, columns, title="Three", emphasis="kept"))
    return screen.getvalue()


def test_a_cell_without_a_value_is_a_dash() -> None:
    alone = next(line for line in shown().splitlines() if "alone" in line)
    assert alone.split() == ["alone", "0.50", "-"]


def test_values_are_written_in_their_form() -> None:
    kept = next(line for line in shown().splitlines() if "kept" in line)
    assert kept.split() == ["kept", "0.75", "80%"]
