"""A contest as it runs: every way trained, exported and measured as the file that a user gets; the test data once, at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.status import Status
from torch import Tensor

from understudy.accept import Condition, parse
from understudy.compress import described
from understudy.contest.board import Board
from understudy.contest.entrants import DISTILLED, Entrants
from understudy.contest.standings import BASE, costs, four, judged, mark_pareto, nearest, ratios, tenth, usual, winner
from understudy.contest.ways import Model, Way
from understudy.errors import InputError
from understudy.examples import Examples, outputs
from understudy.export import run_file
from understudy.measure import bench, gap_closed, interval, parameters
from understudy.outcome import deploy
from understudy.writing import strict

__all__ = ["Tryout"]

FEW = 256  # samples that a file is tried on
AT_ONCE = 6  # modules whose processes wait side by side: each has a PyTorch of its own in memory
SHARE = 0.97
"""Of the teacher's figure, that has to be kept where the recipe does not say what is accepted."""

Row = dict[str, Any]


class Tryout:
    """One contest, when everything is checked."""

    def __init__(
        self,
        entrants: Entrants,
        entered: Sequence[Way],
        left_out: list[dict[str, str]],
        raw: Mapping[str, Any] | None,
        budget: str | None,
    ) -> None:
        self.entrants, self.entered, self.left_out, self.raw, self.budget = entrants, entered, left_out, raw, budget
        self.material, self.plan, self.task = entrants.material, entrants.plan, entrants.task
        self.out, self.console, self.teacher = entrants.out, entrants.console, entrants.teacher
        self.files: dict[str, dict[int, Path]] = {}  # by row and seed

    def run(self, price: float | None, command: str) -> Board:
        """All trainings, exports and measurements; what wins by validation; and then, once, the test data."""
        models = {way.model.name: way.model for way in self.entered}
        trainings = self.plan.seeds * sum(bool(model.learns) for model in models.values())
        rows = f"{len(self.entered)} row{'s' if len(self.entered) > 1 else ''}"
        self.console.print(f"{rows}, {trainings} trainings of students.", soft_wrap=True)
        self.entrants.settle(trainings)
        with self.console.status("") as status:
            self._make(status)
            rows_, machine = self._measured(status)
            self._validate(rows_, status)
            won = self._won(rows_)
            status.update("The test data, once")
            self._test(rows_)
        ratios(rows_)
        costs(rows_, price)
        mark_pareto(rows_, self.task.metric, self.task.sign)
        table = four(rows_, self.task.metric)
        return Board(
            rows=[strict(row) for row in rows_],
            metric=self.task.metric,
            better=self.task.best_is,
            measured_on=self._part,
            winner=None if won is None else won["name"],
            told=[*self._told(rows_, won), *tenth(rows_, self.task.metric), *usual(table)],
            four=table,
            left_out=self.left_out,
            protocol=self._protocol(),
            machine=machine,
            command=command,
        )

    # -- models and files ----------------------------------------------------------------------------------------------------

    def _make(self, status: Status) -> None:
        """Train what learns, and export every row; a way that fails is left out, and the others go on."""
        self.entrants.train_teacher(status)
        done = []
        for way in self.entered:
            failed = self.entrants.train(way.model, status)
            try:
                if failed is None:
                    status.update(f"Exporting {way.name}")
                    self.files[way.name] = self._export(way)
            except InputError as error:  # it cannot be made, or its file does not say what it says
                failed = str(error)
            if failed is None:
                done.append(way)
            else:
                self._leave_out(way, failed)
        self.entered = done
        if {"teacher"} == {way.name for way in done}:
            raise InputError("\n".join(["compare: no way can be gone here.", *(o["reason"] for o in self.left_out)]))

    def _leave_out(self, way: Way, reason: str) -> None:
        self.left_out.append({"way": way.name, "reason": " ".join(reason.split())})
        self.console.print(f"Left out: {way.name}: {self.left_out[-1]['reason']}", soft_wrap=True)

    def _export(self, way: Way) -> dict[int, Path]:
        """The file of the seed that is handed on; of a file that rounds those of all seeds, for each has its own figure."""
        best, data = self.entrants.best(way.model), self.material.data
        found = {}
        for seed in self.entrants.seeds(way.model) if way.int8 else [best]:
            folder = self.out / "models" / f"{way.model.name}{'-int8' if way.int8 else ''}" / f"seed-{seed}"
            model, raw = self.entrants.made(way.model, seed), self.raw
            deploy(
                folder, model, data["valid"], self.task, self.plan.classes,
                raw=raw, target=way.target, training=data["train"],
            )  # fmt: skip
            found[seed] = folder
        return found

    def _file(self, way: Way) -> Path:
        return self.files[way.name][self.entrants.best(way.model)]

    # -- figures -------------------------------------------------------------------------------------------------------------

    def _measured(self, status: Status) -> tuple[list[Row], dict[str, Any]]:
        """A row of each with what it costs, and the machine. The files take turns with the teacher in PyTorch, so that they meet the same load."""
        inputs = self.material.data["valid"].few(FEW).inputs()
        told = status.update
        files = {BASE: self.teacher, **{way.name: self._file(way) for way in self.entered}}
        alike = {"budget": self.budget} if self.budget else {"batches": (1,), "threads": (1,)}
        found = bench(files, inputs, tell=lambda line: told(f"Measuring files: {line}"), **alike)
        facts = {fact["model"]: fact for fact in found.models}
        timed = {row["model"]: row for row in found.rows}
        eager = self._eager(inputs, told)
        rows = [self._row(None, facts[BASE], timed[BASE], facts[BASE], timed[BASE])]
        for way in self.entered:
            if way.name in timed:
                rows.append(self._row(way, facts[way.name], timed[way.name], *eager[_plain(way.model).name]))
        return rows, {**found.machine, "notes": found.notes}

    def _eager(self, inputs: Tensor | None, told: Any) -> dict[str, tuple[Row, Row]]:
        """Facts and times of every model in PyTorch, a few at a time, each few with the teacher."""
        models = {m.name: m for way in self.entered if (m := _plain(way.model)).name != "teacher"}
        names, found = list(models), dict[str, tuple[Row, Row]]()
        for at in range(0, max(1, len(names)), AT_ONCE):
            few = {"teacher": self.teacher}
            few |= {n: self.entrants.made(models[n], self.entrants.best(models[n])) for n in names[at : at + AT_ONCE]}
            made = bench(
                few, inputs, batches=(1,), threads=(1,), tell=lambda line: told(f"Measuring in PyTorch: {line}")
            )
            timed = {row["model"]: row for row in made.rows}
            found |= {fact["model"]: (fact, timed[fact["model"]]) for fact in made.models}
        return found

    def _row(self, way: Way | None, fact: Row, timed: Row, module: Row, eager: Row) -> Row:
        model = Model("teacher", "teacher") if way is None else way.model
        path = None if way is None else self._file(way)
        keys = ("latency_ms_p50", "latency_ms_p99", "throughput_per_s", "peak_memory_mb", "energy_mj", "energy_how")
        row = {
            "name": BASE if way is None else way.name,
            "family": "teacher" if way is None else way.family,
            "start": model.start,
            "chain": [described(step) for step in model.chain],
            "recovered": model.learns == "recovered",
            "seeds": len(self.entrants.seeds(model)),
            "parameters": module["parameters"],
            "flops": module.get("flops"),
            "size_bytes": fact["size_bytes"],
            "size_compressed_bytes": fact["size_compressed_bytes"],
            "size_mb": fact["size_bytes"] / 1e6,
            "runtime": fact["runtime"],
            "precision": "int8" if fact.get("int8") else "fp32",
            **{key: timed[key] for key in keys},
            "eager_latency_ms_p50": eager["latency_ms_p50"],
            "training_seconds": self.entrants.seconds(model),
            "seconds": self.entrants.seconds(model),
            "path": None if path is None else str(path.relative_to(self.out)),
        }
        return row | ({"within_budget": timed["within_budget"]} if "within_budget" in timed else {})

    def _validate(self, rows: Sequence[Row], status: Status) -> None:
        """Add ``valid``: the figures, on the validation data, of the file that the row would hand on."""
        status.update("The validation data")
        data, task = self.material.data["valid"], self.task
        taught, by_name = outputs(self.teacher, data, give=self.plan.call), {way.name: way for way in self.entered}
        for row in rows:
            way = by_name.get(row["name"])
            made = taught if way is None else run_file(self._file(way), _inputs(data))
            row["valid"] = self._metrics(made, data)
            row["valid"]["divergence"] = float(task.divergence(made, taught).double().mean())
            row["valid"]["agreement"] = float(task.agreement(made, taught).double().mean())
        of = {row["name"]: task.sign * row["valid"][task.metric] for row in rows}
        for row in rows:
            beside = of.get(by_name[row["name"]].beside) if row["name"] in by_name else None
            row["valid"]["gap_closed"] = None if beside is None else gap_closed([of[BASE]], [beside], [of[row["name"]]])

    def _metrics(self, output: Tensor, data: Examples) -> dict[str, Any]:
        assert data.labels is not None  # checked before any training
        return dict(self.task.metrics(output, data.labels))

    def _won(self, rows: Sequence[Row]) -> Row | None:
        """The row that is handed on, by validation alone."""
        by_name = {row["name"]: row for row in rows}
        for row in rows:
            told = judged(self._conditions, row, by_name[BASE], by_name.get("alone", {}))
            row["missed"], row["why"] = sum(not met for met, _ in told), [why for _, why in told]
        return winner(rows[1:])

    @property
    def _conditions(self) -> list[Condition]:
        share = f">= {SHARE} * teacher" if self.task.sign > 0 else f"<= {2 - SHARE:g} * teacher"
        return self.material.conditions or parse({self.task.metric: share})

    @property
    def _part(self) -> str:
        return "test" if "test" in self.material.data else "valid"

    def _test(self, rows: Sequence[Row]) -> None:
        """Add the figures on data that chose nothing: the mean over seeds, and that of the file that is handed on."""
        data, metric, sign = self.material.data[self._part], self.task.metric, self.task.sign
        taught = float(self._metrics(outputs(self.teacher, data, give=self.plan.call), data)[metric])
        values: dict[str, list[float]] = {BASE: [taught]}
        for way in self.entered:
            of_files = {seed: run_file(file, _inputs(data)) for seed, file in self.files[way.name].items()}
            found = {seed: float(self._metrics(made, data)[metric]) for seed, made in of_files.items()}
            values[way.name] = (
                list(found.values())
                if way.int8
                else [self._of(way, seed, data) for seed in self.entrants.seeds(way.model)]
            )
            for row in rows:
                if row["name"] == way.name:
                    row[f"file_{metric}"] = found[self.entrants.best(way.model)]
        beside = {way.name: way.beside for way in self.entered}
        for row in rows:
            own, alone = values[row["name"]], values.get(beside.get(row["name"], ""))
            mean = interval(own)
            row |= {metric: mean.mean, f"{metric}_ci95": mean.half, "gap_closed": None}
            if alone is not None and row["name"] != beside[row["name"]] and row["family"] != "teacher":
                row["gap_closed"] = gap_closed(
                    [sign * taught] * len(alone), [sign * v for v in alone], [sign * v for v in own]
                )

    def _of(self, way: Way, seed: int, data: Examples) -> float:
        made = outputs(self.entrants.made(way.model, seed), data, give=self.plan.call)
        return float(self._metrics(made, data)[self.task.metric])

    # -- the end -------------------------------------------------------------------------------------------------------------

    def _told(self, rows: Sequence[Row], won: Row | None) -> list[str]:
        """Who wins, why, and whether that holds on data that chose nothing."""
        metric = self.task.metric
        rule = "; ".join(str(condition) for condition in self._conditions)
        if won is None:
            near = nearest(rows[1:], metric, self.task.sign)
            return [f"No row is accepted ({rule}, on valid). Nearest is {near['name']}: {'; '.join(near['why'])}."]
        base, alone = (next((row for row in rows if row["name"] == name), {}) for name in (BASE, "alone"))
        figure, whole = won[f"file_{metric}"], base[metric]
        told = [
            f"Handed on: {won['name']}, the smallest file that is accepted on valid ({'; '.join(won['why'])}). "
            f"It is {won['times_smaller_overall']:.1f} times smaller and {won['times_faster_overall']:.1f} times faster than "
            f"the teacher in PyTorch; {metric} {figure:.3f} on {self._part}, from the file; the teacher has {whole:.3f}."
        ]
        for condition in self._conditions:
            met, why = condition.check(figure, whole, alone.get(metric)) if condition.name == metric else (True, "")
            if not met:
                told.append(
                    f"Mind that on {self._part} it falls short: {why}. A bar that leaves a margin is safer: accept."
                )
        return told

    def _protocol(self) -> dict[str, str]:
        """What all rows had alike, in words."""
        plan, data, stages = self.plan, self.material.data, self.material.stages
        method = plan.method if isinstance(plan.method, str) else getattr(plan.method, "__name__", "the recipe's terms")
        half = self.entrants.half.plan.epochs
        own, theirs = parameters(self.material.student()), parameters(self.teacher)
        smaller = f", compressed: {', '.join(map(described, plan.compress))}" if plan.compress else ""
        return {
            "task": self.task.name,
            "teacher": f"{type(self.teacher).__name__}, {theirs:,} parameters",
            "teacher is asked": self.entrants.shared.told(),
            "student": f"{type(self.material.student()).__name__}, {own:,} parameters{smaller}",
            "method": method,
            "seeds": str(plan.seeds),
            "steps": f"{stages['distilled'].steps:,} of {self.material.batch_size} samples; recovered and qat: {half} in place of {plan.epochs} epochs",
            "trained on": f"{data['train'].samples:,} samples",
            "weights and winner chosen on": f"valid, {data['valid'].samples:,} samples",
            "measured on": f"{self._part}, {data[self._part].samples:,} samples, once; int8 from the files of all seeds, else the modules of all seeds",
            "time": "batch 1 on one thread, all files in turns; ratios overall are against the teacher in PyTorch in float32",
        }


def _plain(model: Model) -> Model:
    """The model in numbers of 32 bits: one that has learnt to be rounded says in PyTorch what integers would give, slowly."""
    return DISTILLED if "qat" in model.chain else model


def _inputs(data: Examples) -> Tensor:
    inputs = data.inputs()
    assert inputs is not None  # checked before any training
    return inputs
