"""From the settings of `python -m bort.predict` to answers on the screen or in a file."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from bort import shell
from bort.console import counted
from bort.errors import BortError
from bort.export.tables import LineWriter, answer_rows
from bort.files.compressed import split_suffixes
from bort.files.locks import check_unread, lock_output
from bort.files.tables import translate_mistakes
from bort.files.writing import is_stream, open_output
from bort.finetuning.columns import TaskColumns, read_columns
from bort.predict.rows import OpenTable, TableFile, check_texts, read_texts
from bort.predict.settings import PredictConfig, split_names
from bort.predict.writing import LineSink, ParquetSink, Sink

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
    table, columns = _find_table(settings)
    if table is not None:
        table.check()
    elif settings.input:
        check_texts(settings.input_path)
    if out is None:
        _answer(settings, table, columns, lambda opened: _open_screen(settings, opened))
        return
    check_unread(out, {"input": settings.input, "model": settings.model})
    with lock_output(out), open_output(out) as file:  # first: a wrong path shows at once
        count = _answer(settings, table, columns, lambda opened: _open_file(settings, opened, file))
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
    wanted, is_explicit = settings.columns or task.columns or None, settings.columns is not None
    return TableFile(settings.input_path, settings.kind, wanted, is_explicit, labels), task


def _answer(
    settings: PredictConfig,
    table: TableFile | None,
    task: TaskColumns,
    open_sink: Callable[[OpenTable | None], Sink],
) -> int:
    """Load the model and hand its answers to the sink; return how many there are."""
    with shell.loading(shell.program()):  # torch, only now
        from bort.predictor import load

    predictor = load(settings.model)
    if settings.top is not None and not predictor.fills_masks:
        raise BortError("top= is for a masked language model, which this is not; leave it out")
    top, count = settings.top or 5, 0
    if table is None:
        with closing(open_sink(None)) as sink:
            for answer in predictor.answers(_list_texts(settings), top=top):
                sink.add("", None, answer)
                count += 1
            sink.finish()
        return count
    sheet = _open_sheet(settings, table, task, predictor)
    opened = table.open()
    with closing(open_sink(opened)) as sink, translate_mistakes():
        answered = answer_rows(
            opened.rows, opened.columns, lambda texts: predictor.answers(texts, top=top)
        )
        for where, cells, answer in answered:
            sink.add(where, cells, answer)
            if sheet is not None:
                sheet.add(where, cells, answer)
            count += 1
        sink.finish()
    if sheet is not None:
        sheet.report(opened.has_decimal_commas)
    return count


def _list_texts(settings: PredictConfig) -> Iterator:
    """Return the texts of the command line, or the lines of a file."""
    if settings.input:
        return read_texts(settings.input_path)
    return iter([settings.text if settings.pair is None else (settings.text, settings.pair)])


def _open_sheet(
    settings: PredictConfig, table: TableFile, task: TaskColumns, predictor: "Predictor"
) -> "ScoreSheet | None":
    """Return what scores the answers, after a look at all labels; None where nothing is scored."""
    if not settings.score:
        return None
    from bort.predict.scores import ScoreSheet

    sheet = ScoreSheet.open(predictor, task.task, table.labels)
    if not is_stream(table.path):
        opened = table.open()
        for where, cells in opened.rows:
            sheet.read_label(where, cells, opened.has_decimal_commas)
    return sheet


# --------------------------------------------------------------------- where the answers go


def _open_screen(settings: PredictConfig, opened: OpenTable | None) -> Sink:
    """Return what prints the answers; where they are scored, the scores alone are printed."""
    kind = f".{settings.format}" if settings.format else ".jsonl"
    separator = opened.separator if opened and settings.kind == kind == ".csv" else None
    writer = LineWriter(kind, separator, sys.stdout.encoding)
    if settings.score:
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
