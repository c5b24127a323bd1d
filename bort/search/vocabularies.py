"""A search over vocabularies: one search for each, on the same text, and the best of all answers.

Every vocabulary is a part of T's own (`data.vocab_size`), and T answers with these words alone. A
cross-entropy counts nats per token, and a text has more tokens of a smaller vocabulary, so that
errors of different vocabularies are no numbers of one kind. What can be compared is what a model
loses against its own T on the same held-out documents: (e − e(T)) times their tokens. It is given
per token of T's whole vocabulary, which is the same for all; its bound is 0. W is not compared.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from bort import html
from bort.config.search import WORDS, SearchRunConfig
from bort.console import typed
from bort.errors import BortError
from bort.files.run_files import OPTIMUM, REPORT, SUMMARY, SWEEP_RECORD, list_foreign_names
from bort.files.untrusted import read_json
from bort.files.writing import replace_file
from bort.models.huggingface import load_tokenizer
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary
from bort.search.answers import WITHIN_BUDGET, Answer, describe_latency
from bort.search.optimum import write_conclusion
from bort.search.report import compose_next
from bort.teachers.opening import open_teacher
from bort.text.trimming import check_trimmed_size

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VocabularyAnswer:
    """The best candidate of one vocabulary within the budget.

    teacher_error: T's entropy with these words alone. tokens: those of the held-out text in this
    vocabulary; whole_tokens: in that of T. latency_unit: as in `Latencies`.
    """

    vocab_size: int
    answer: Answer
    teacher_error: float
    tokens: int
    whole_tokens: int
    latency_unit: str

    @property
    def loss(self) -> float:
        """What it loses against its T, in nats per token of T's whole vocabulary."""
        return (self.answer.error - self.teacher_error) * self.tokens / self.whole_tokens

    def to_cells(self) -> list[str]:
        """Write its row of the table, with the columns of COLUMNS."""
        answer = self.answer
        if answer.xi is None:
            return [f"{self.vocab_size:,}", f"none: {answer.note}", "", "", "", "", "", ""]
        return [
            *(f"{self.vocab_size:,}", str(answer.xi), f"{self.loss:.3f}", f"{answer.error:.3f}"),
            *(f"{self.teacher_error:.3f}", f"{answer.parameters:,.0f}", f"{answer.mb:.3g}"),
            describe_latency(answer.latency, self.latency_unit),
        ]


COLUMNS = ("vocabulary", "ξ", "loss", "e", "e(T)", "parameters", "int8, MB", "latency")


def name_folder(folder: Path, vocab_size: int) -> Path:
    """Return the folder of the search with this vocabulary, in that of all of them."""
    return folder / f"v{vocab_size}"


def check_vocabularies(run: SearchRunConfig, folder: Path) -> None:
    """Raise BortError, before any training, for a vocabulary that T's tokenizer cannot give.

    Raise it, too, when the folder holds a search of one vocabulary, or what is not bort's.
    """
    if RunFolder(folder).settings_file.exists():
        raise BortError(f"{folder} holds a search of one vocabulary; use another name=")
    # A process that was killed early has left the folder of a search, perhaps without any run.
    names = set(list_foreign_names(folder)) - {SWEEP_RECORD, SUMMARY, OPTIMUM, REPORT}
    if not all(re.fullmatch(r"v\d+", name) for name in names):
        raise BortError(f"{folder} holds files but no search of bort; use another name=")
    tokenizer = load_tokenizer(run.teacher.name)
    for size in run.grid.vocab_size:
        check_trimmed_size(tokenizer, size, "grid.vocab_size")
    if "logits" not in open_teacher(run.teacher.name).gives:
        raise BortError(
            f"grid.vocab_size compares errors at masked words, and teacher.name={run.teacher.name} "
            "has no masked-LM head; name a teacher that has one, or give one data.vocab_size="
        )


def compose_search(
    config: DictConfig, arguments: Sequence[str], vocab_size: int
) -> tuple[DictConfig, list[str]]:
    """Compose the configuration and the overrides of the search with one vocabulary."""
    folder = name_folder(Path(config.output_dir), vocab_size)
    words = [f"data.vocab_size={vocab_size}", "search.proxy=words", f"output_dir={folder}"]
    others = [word for word in arguments if not word.lstrip("+").startswith("grid.vocab_size=")]
    cfg = config.copy()
    with open_dict(cfg):
        cfg.grid.vocab_size = None
        cfg.data.vocab_size = vocab_size
        cfg.search.proxy = WORDS
        cfg.output_dir = str(folder)
        cfg.hydra.overrides.task = [*others, *words]
    return cfg, [*others, *words]


def conclude_all(folder: Path, sizes: Sequence[int]) -> VocabularyAnswer:
    """Conclude the search of every vocabulary, and choose the best answer of all.

    Writes optimum.yaml, summary.json and report.html into `folder`. Raises BortError where no
    vocabulary has an answer.
    """
    conclusions, answers = {}, []
    for size in sizes:
        logger.info(f"search: with {size:,} words")
        conclusions[size] = write_conclusion(name_folder(folder, size))
        answers.append(read_answer(name_folder(folder, size), size))
    able = [answer for answer in answers if answer.answer.xi is not None]
    if not able:
        raise BortError(f"no candidate of any vocabulary is within the budget; see {folder}")
    best = min(able, key=lambda answer: (answer.loss, answer.vocab_size))
    run_folder = RunFolder(folder)
    with replace_file(run_folder.optimum) as file:
        file.write(OmegaConf.to_yaml(best.answer.xi.to_table()).encode())
    run_folder.write_summary(RunSummary(summarize(answers, best)))
    chosen = conclusions[best.vocab_size]
    following = typed(
        compose_next(name_folder(folder, best.vocab_size), chosen.rows[0], chosen.run)
    )
    html.write_page(run_folder.report, f"bort search {folder.name}", write_parts(answers, best))
    for line in describe_answers(answers, best):
        logger.info(line)
    logger.info(f"  optimum   {run_folder.optimum}")
    logger.info(f"  report    {run_folder.report}")
    logger.info(f"  next      {following}")
    return best


def read_answer(folder: Path, vocab_size: int) -> VocabularyAnswer:
    """Read the answer of the search in a folder, which has been concluded."""
    summary = RunSummary.read(RunFolder(folder).summary_file)
    notes = read_json(RunFolder(folder).inputs_file)
    tokens = notes["val_tokens"]
    answer = Answer.from_json(summary, WITHIN_BUDGET)
    return VocabularyAnswer(
        vocab_size,
        answer,
        summary["teacher_error"],
        tokens,
        notes.get("full_val_tokens") or tokens,  # 0 where no words were left out
        summary["latency_unit"],
    )


def summarize(answers: Sequence[VocabularyAnswer], best: VocabularyAnswer) -> dict[str, Any]:
    """Give the content of summary.json: the best answer, and `vSIZE/…` of every vocabulary."""
    values = {"vocab_size": best.vocab_size, "optimum": best.answer.xi.to_json()}
    values |= {"optimum_name": str(best.answer.xi), "loss": best.loss}
    for one in answers:
        key, xi = f"v{one.vocab_size}", one.answer.xi
        values[f"{key}/optimum_name"] = None if xi is None else str(xi)
        values[f"{key}/loss"] = None if xi is None else one.loss
        numbers = {name: getattr(one.answer, name) for name in ("error", "parameters", "mb")}
        numbers |= {"latency": one.answer.latency, "teacher_error": one.teacher_error}
        values |= {f"{key}/{name}": value for name, value in numbers.items()}
    return values


def describe_answers(answers: Sequence[VocabularyAnswer], best: VocabularyAnswer) -> Iterator[str]:
    """Write the answer of every vocabulary, a line each, and which of them is the best."""
    yield "the best of each vocabulary; loss is (e − e(T)) per token of T's whole vocabulary"
    rows = [COLUMNS, *(answer.to_cells() for answer in answers)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        yield "  " + "  ".join(cells)
    yield f"search: {best.answer.xi} with {best.vocab_size:,} words loses least"


def write_parts(answers: Sequence[VocabularyAnswer], best: VocabularyAnswer) -> Iterator[str]:
    """Write the page of all vocabularies, which links to those of the searches."""
    yield f"<h1>{best.answer.xi} with {best.vocab_size:,} words</h1>"
    yield html.format_numbers(
        [
            (f"{best.loss:.3f}", "nats lost against T, per token of its whole vocabulary"),
            (f"{best.answer.parameters:,.0f}", "parameters"),
            (f"{best.answer.mb:.3g} MB", "in int8"),
            (describe_latency(best.answer.latency, best.latency_unit), "latency"),
        ]
    )
    yield html.format_table([answer.to_cells() for answer in answers], COLUMNS)
    links = (f"v{answer.vocab_size}" for answer in answers)
    items = "".join(
        f'<li><a href="{link}/report.html">{link}/report.html</a></li>' for link in links
    )
    yield f"<h2>The searches</h2><ul>{items}</ul>"
