"""Scores of answers to a labelled table: the metrics of the model's task, without a training."""

import logging
from collections.abc import Sequence
from typing import Any, Self

from bort.console import counted, decimal
from bort.errors import BortError, quote, suggest_name
from bort.predictor import OnnxPredictor, Predictor
from bort.tasks import metrics
from bort.tasks.custom import define_task
from bort.tasks.labels import (
    DECIMAL_COMMA,
    ONE_OF_SEVERAL,
    THOUSANDS,
    has_decimal_commas,
    parse_number,
    read_label,
    replace_decimal_commas,
    spell_label,
)
from bort.tasks.registry import TASKS
from bort.tasks.task import Row, Task

logger = logging.getLogger(__name__)

SCORED = ("classes", "regression")  # kinds of a suite's tasks that are scored row by row


class ScoreSheet:
    """The labels of rows and the answers to them, of which 16 bytes a row are kept."""

    def __init__(self, task: Task, columns: tuple[str, ...]):
        self.task, self.columns = task, columns
        self.labels: list[Any] = []  # of a regression as they are spelled
        self.answers: list[Any] = []
        # The case of letters parts the user's own labels, and files of a suite spell true as True.
        self.fold = str.lower if task.name in TASKS else str
        self.classes = {self.fold(str(name)): k for k, name in enumerate(task.labels)}
        spelled = {self.fold(str(name)): k for k, name in enumerate(task.spelled)}
        self.spelled = spelled | self.classes

    @classmethod
    def make(
        cls, predictor: Predictor | OnnxPredictor, name: str | None, columns: tuple[str, ...]
    ) -> Self:
        """Make a sheet for a model.

        name: of the task, by whose metrics the answers are scored; those of task=custom otherwise.
        columns: of the labels. Raises BortError for a model whose answers are no labels.
        """
        if predictor.outputs is None:
            raise BortError("score=true is for a model that answers with classes or numbers")
        labels = tuple(predictor.labels[k] for k in range(predictor.outputs))
        task = TASKS.get(name)
        if task is not None and task.kind in SCORED and len(task.columns) <= 2:
            if task.kind == "regression" or _are_equal(labels, task.labels):
                return cls(task, columns)
        kind = "regression" if predictor.outputs == 1 else "classes"
        kind = "labels" if predictor.multi_label else kind
        return cls(define_task("custom", kind, ("text",), labels), columns)

    def add(self, where: str, cells: dict[str, Any], answer: dict) -> None:
        """Take the label of a row and the answer to it."""
        self.labels.append(self.read_label(where, cells, True))
        if self.task.kind == "regression":
            self.answers.append(answer["score"])
        elif self.task.kind == "labels":
            self.answers.append(tuple(int(name in answer["labels"]) for name in self.task.labels))
        else:
            self.answers.append(self.classes[self.fold(answer["label"])])

    def read_label(self, where: str, cells: dict[str, Any], has_commas: bool) -> Any:
        """Return the label of a row; of a regression as it is spelled.

        has_commas: whether a number may have a decimal comma. Raises BortError for a cell that is
        no label of the model's.
        """
        if self.task.kind == "labels":
            return self._read_set(where, cells)
        text = read_label(cells, self.columns[0], where)
        if text is None:
            raise BortError(f"{where}: no '{self.columns[0]}'; fix or drop the row")
        if self.task.kind == "regression":
            is_spelled = has_commas and (DECIMAL_COMMA.fullmatch(text) or THOUSANDS.fullmatch(text))
            if parse_number(text) is None and not is_spelled:
                raise BortError(f"{where}: '{self.columns[0]}' is {quote(text)}, not a number")
            return text
        return self._find_label(text, where)

    def _find_label(self, text: str, where: str) -> int:
        """Return the place of a label; raises BortError for one that the model does not answer."""
        if self.fold(text) not in self.spelled:
            names = [str(name) for name in self.task.labels]
            raise BortError(
                f"{where}: label {quote(text)} is none of the model's "
                f"({quote(', '.join(names))}){suggest_name(text, names)}"
            )
        return self.spelled[self.fold(text)]

    def _read_set(self, where: str, cells: dict[str, Any]) -> tuple[int, ...]:
        """Return 1 or 0 for each label, from a list of them or from a column for each."""
        if len(self.columns) == 1:
            names = cells.get(self.columns[0])
            if not isinstance(names, list | tuple):
                raise BortError(
                    f"{where}: '{self.columns[0]}' is {quote(names)}, no list of labels"
                )
            numbers = {self._find_label(spell_label(name) or "", where) for name in names}
            return tuple(int(k in numbers) for k in range(len(self.task.labels)))
        right = set()
        for column in self.columns:
            text = str(spell_label(cells.get(column))).lower()
            if text not in ONE_OF_SEVERAL:
                raise BortError(f"{where}: '{column}' is {quote(cells.get(column))}, not 0 or 1")
            right |= {self._find_label(column, where)} if ONE_OF_SEVERAL[text] else set()
        return tuple(int(k in right) for k in range(len(self.task.labels)))

    def report(self, has_commas: bool) -> dict[str, float | None]:
        """Print and return the metrics, and what is to be doubted about the answers.

        has_commas: whether numbers with decimal commas are read as such.
        """
        labels = self.labels
        if self.task.kind == "regression":
            if has_commas and has_decimal_commas(labels):
                labels = replace_decimal_commas(labels)
            labels = [parse_number(label) for label in labels]
        rows = _make_rows(labels)
        scores = metrics.compute_scores(self.task, rows, self.answers)
        listed = ", ".join(f"{name} {decimal(value)}" for name, value in scores.items())
        logger.info(f"score: {listed} ({counted(len(rows), 'row')})")
        if doubt := metrics.find_doubt(self.task, rows, self.answers):
            logger.warning(doubt)
        return scores


def _are_equal(labels: Sequence[str], others: Sequence[Any]) -> bool:
    """Whether two sets of labels are the same but for their order and case."""
    return {label.lower() for label in labels} == {str(label).lower() for label in others}


def _make_rows(labels: Sequence[Any]) -> list[Row]:
    """Return a row for each label; equal ones are one object."""
    rows = {label: Row(0, (), label) for label in set(labels)}
    return [rows[label] for label in labels]
