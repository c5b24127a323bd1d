"""From the settings of `python -m bort.predict` to answers on the screen or in a file."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from bort import shell
from bort.console import counted, duration, listed
from bort.errors import BortError
from bort.export.tables import USUAL, LineWriter, answer_rows, split_names
from bort.files.compressed import split_suffixes
from bort.files.locks import check_unread, lock_output
from bort.files.tables import translate_mistakes
from bort.files.writing import check_writable, is_stream, open_output
from bort.finetuning.columns import TaskColumns, read_columns
from bort.predict.rows import OpenTable, TableFile, check_texts, read_texts
from bort.predict.settings import PredictConfig
from bort.predict.writing import LineSink, ParquetSink, Sink
from bort.tasks.metrics import list_metrics

if TYPE_CHECKING:
    from bort.predict.scores import ScoreSheet
    from bort.predictor import Predictor

logger = logging.getLogger("bort.predict")


def main(settings: PredictConfig) -> None:
    """Write an answer to each text or row, to the screen or to out=FILE, and score them if asked.

    Memory holds a thousand rows, whatever the length of the input; with score=true also a label and
    an answer of each. Raises BortError for a mistake in the input before a model is loaded.
    """
    out = settings.out_path
    if sys.stdout is None and out is None:  # closed, as by >&-
        raise BortError("there is no standard output; give out=FILE")
    table, task = _find_table(settings)
    if table is not None:
        table.check()
    elif settings.input:
        check_texts(settings.input_path)
    if out is None:
        work = Work.prepare(settings, table, task)
        work.answer(lambda opened: _open_screen(settings, opened))
        return
    check_unread(out, {"input": settings.input, "model": settings.model})
    if settings.dry_run:
        if not is_stream(out):
            check_writable(out)
        with open(os.devnull, "wb") as file:
            work = Work.prepare(settings, table, task)
            work.answer(lambda opened: _open_file(settings, opened, file))
        return
    with lock_output(out), open_output(out) as file:  # first: a wrong path shows at once
        work = Work.prepare(settings, table, task)
        count = work.answer(lambda opened: _open_file(settings, opened, file))
    if not is_stream(out):
        logger.info(f"{counted(count, 'answer')}: {settings.out}")


def _find_table(settings: PredictConfig) -> tuple[TableFile | None, TaskColumns]:
    """Return the table to read, if it is one, and what is known of the columns of the task."""
    if settings.kind in (None, ".txt"):
        return None, TaskColumns()
    task = read_columns(settings.model)
    labels: tuple[str, ...] = ()
    if settings.score:
        labels = task.labels or ("label",)
        labels = split_names(settings.label) if settings.label else labels
    columns, is_explicit = settings.columns or task.columns or None, settings.columns is not None
    return TableFile(settings.input_path, settings.kind, columns, is_explicit, labels), task


@dataclass(frozen=True)
class Work:
    """A loaded model, what it answers, and the sheet of its scores where they are asked for.

    A dry run takes the same steps with an answer to the first row alone, which stands for all.
    """

    settings: PredictConfig
    predictor: "Predictor"
    table: TableFile | None  # None for texts, and for the lines of a file
    sheet: "ScoreSheet | None"

    @classmethod
    def prepare(cls, settings: PredictConfig, table: TableFile | None, task: TaskColumns) -> Self:
        """Load the model; raises BortError for one that cannot do what the settings say."""
        with shell.loading(shell.program()):  # torch, only now
            from bort.predictor import load

        predictor = load(settings.model)
        if settings.top is not None and not predictor.fills_masks:
            raise BortError("top= is for a masked language model, which this is not; leave it out")
        sheet = _open_sheet(table, task, predictor) if settings.score else None
        return cls(settings, predictor, table, sheet)

    def answer(self, open_sink: Callable[[OpenTable | None], Sink]) -> int:
        """Hand the answers to the sink, and the scores to the screen; return how many there are."""
        opened = self.table.open_rows() if self.table is not None else None
        count, start = 0, time.monotonic()
        with closing(open_sink(opened)) as sink, translate_mistakes():
            for where, cells, answer in self._walk(opened):
                sink.add(where, cells, answer)
                if self.sheet is not None:
                    self.sheet.add(where, cells, answer)
                count += 1
            sink.finish()
        if self.settings.dry_run:
            self._describe(count, opened, time.monotonic() - start)
        elif self.sheet is not None:
            self.sheet.report(opened.has_decimal_commas)
        return count

    def _walk(self, opened: OpenTable | None) -> Iterator[tuple[str, dict | None, dict]]:
        """Yield where each row is, its cells, None for what is no row, and the answer to it."""
        respond = self.predictor.rehearse if self.settings.dry_run else self.predictor.answers
        top = self.settings.top or 5
        if opened is None:
            yield from (("", None, a) for a in respond(_list_texts(self.settings), top=top))
            return
        yield from answer_rows(opened.rows, opened.columns, lambda texts: respond(texts, top=top))

    def _describe(self, count: int, opened: OpenTable | None, seconds: float) -> None:
        """Say what would be answered, and how long its reading took."""
        source = self.settings.input or "the command line"
        columns = opened.columns if opened else ()
        read = "text (and pair)" if columns == USUAL else " and ".join(columns)
        where = f", the text in {read}" if opened else ""
        logger.info(f"  rows        {count:,} of {source}{where}")
        labels = list(self.predictor.labels.values()) if self.predictor.outputs else []
        logger.info(f"  model       {self.settings.model}{describe_labels(labels)}")
        if self.sheet is not None:
            scores = ", ".join(list_metrics(self.sheet.task))
            logger.info(f"  scores      {scores}, of the labels in {', '.join(self.table.labels)}")
        logger.info(f"  out         {self.settings.out or 'the screen'}")
        logger.info(f"  reading     {duration(seconds)}, without the answers")
        logger.info("dry_run=true: nothing was answered")


def describe_labels(labels: list[str]) -> str:
    """Say what a model answers with, where that is known: `: 2 classes (bad, good)`."""
    if not labels:
        return ""
    if len(labels) == 1:
        return ": a number"
    return f": {len(labels)} classes ({listed(labels, 60)})"


def _list_texts(settings: PredictConfig) -> Iterator:
    """Return the texts of the command line, or the lines of a file."""
    if settings.input:
        return read_texts(settings.input_path)
    return iter([settings.text if settings.pair is None else (settings.text, settings.pair)])


def _open_sheet(table: TableFile, task: TaskColumns, predictor: "Predictor") -> "ScoreSheet":
    """Return what scores the answers, after a look at all labels that can be read twice."""
    from bort.predict.scores import ScoreSheet

    sheet = ScoreSheet.make(predictor, task.task, table.labels)
    if not is_stream(table.path):
        opened = table.open_rows()
        for where, cells in opened.rows:
            sheet.read_label(where, cells, opened.has_decimal_commas)
    return sheet


# --------------------------------------------------------------------- where the answers go


def _open_screen(settings: PredictConfig, opened: OpenTable | None) -> Sink:
    """Return what prints the answers; where they are scored, the scores alone are printed."""
    kind = f".{settings.format}" if settings.format else ".jsonl"
    separator = opened.separator if opened and settings.kind == kind == ".csv" else None
    writer = LineWriter(kind, separator, sys.stdout.encoding)
    if settings.score or settings.dry_run:
        return LineSink(writer, lambda lines: None)
    return LineSink(writer, lambda lines: print(lines, end="", flush=True))


def _open_file(settings: PredictConfig, opened: OpenTable | None, file) -> Sink:
    """Return what writes the answers to an open file, of the kind that its name says."""
    kind, _ = split_suffixes(settings.out_path)
    if kind == ".parquet":
        source = settings.input_path if settings.kind == ".parquet" else None
        return ParquetSink(file, source)
    separator = opened.separator if opened and settings.kind == kind == ".csv" else None
    writer = LineWriter(kind if kind in (".csv", ".tsv") else ".jsonl", separator)
    return LineSink(writer, lambda lines: file.write(lines.encode()))
