"""The student of Agora, and its trainings with any settings θ on any rows.

Each training has a folder of its own and is recorded there as soon as it is finished. Letters, as
in the paper: D are the training rows and E those held out of them, S is the teacher that judges
generated rows, and θ is one set of training settings.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from bort.agora.dataset import split_rows
from bort.agora.generated import Generated, read_generated, soften_rows, write_generated
from bort.agora.rounds import Theta, apply_theta, count_planned_steps
from bort.config.optim import finetuning_lr
from bort.config.train import TrainConfig
from bort.console import clock, counted, hide_notes
from bort.errors import BortError, Diverged
from bort.files.run_files import LAUNCHED, LAUNCHED_ROWS
from bort.files.text_files import read_whole_text
from bort.files.untrusted import parse_object
from bort.files.writing import write_json
from bort.finetuning.answering import answer_split
from bort.finetuning.examples import TaskExamples, encode_examples, hash_rows
from bort.finetuning.fitting import train_classifier
from bort.finetuning.heads import arrange_texts, build_task_classifier
from bort.finetuning.module import list_scores
from bort.finetuning.recipe import check_length, explain_length
from bort.models import hub
from bort.models.huggingface import load_masked_lm, load_tokenizer
from bort.pretraining.recipe import pretrain_encoder
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary
from bort.tasks.encoding import EncodedRows, encode_rows
from bort.tasks.metrics import compute_scores, is_falling
from bort.tasks.reading import load_task
from bort.tasks.task import Row, Task
from bort.training.threads import use_threads
from bort.training.trainer import check_monitors, hide_lightning_notes

logger = logging.getLogger(__name__)

# The numbers that the summary of a training has which did not diverge.
NUMBERS = ("steps", "seconds", "parameters", "tokens", "tokens_per_s", "lr")


@dataclass(frozen=True)
class TrainingJob:
    """A training that a launcher may do: θ, and its steps instead of the run's epochs."""

    name: str  # of its folder, below the run's
    theta: Theta
    steps: int | None = None


@dataclass(frozen=True)
class TrainingResult:
    """What the summary of a finished training says; a diverged one has a failure and no scores."""

    steps: int
    seconds: float = 0.0
    failure: str | None = None
    numbers: dict[str, float] = field(default_factory=dict)  # NUMBERS, by name
    scores: dict[str, float | None] = field(default_factory=dict)  # on E, by metric

    @classmethod
    def read(cls, folder: Path) -> "TrainingResult | None":
        """Read the result of the training in a folder; None where there is none.

        A damaged summary is of no use: the training is done again.
        """
        summary = RunFolder(folder).settle_finished()
        if summary is None:
            return None
        keys = ("steps",) if "failed" in summary else NUMBERS
        numbers = {key: summary.get(key) for key in keys}
        if not all(type(number) in (int, float) for number in numbers.values()):
            return None
        names = [key for key in summary if key.startswith("eval/")]
        scores = {name.removeprefix("eval/"): summary[name] for name in names}
        seconds = numbers.get("seconds", 0.0)
        return cls(numbers["steps"], seconds, summary.get("failed"), numbers, scores)


class Student:
    """The student, which starts each training from its pre-trained weights.

    Everything is kept in `folder`. launch: has the trainings of these names done by a launcher of
    Hydra; without it, they are done here. Raises BortError for a task that Agora cannot do, data
    that cannot be split, or a wrong model.
    """

    def __init__(
        self,
        run: TrainConfig,
        folder: Path,
        launch: Callable[[list[str]], None] | None = None,
    ):
        self.run, self.folder = replace(run, resume=True), folder
        self.launch = launch
        if run.model:
            hub.find_model(run.model)  # a wrong name is told before rows are read
        self.task, self.rows = load_task(run.task, run.data)
        check_task(self.task)
        self.task = arrange_texts(self.task, run.head, run.data.overlap)
        check_monitors(run, list_scores(self.task, ["val"]))
        self.D, self.E = split_rows(self.task, self.rows["train"], run.agora.eval_fraction)
        self.source = str(run.model or pretrain_encoder(run))
        config = load_masked_lm(self.source, head_required=False).config
        check_length(run, config.positions)
        self.rate = finetuning_lr(config.hidden)  # where the run names none
        self.tokenizer = load_tokenizer(self.source)
        self.metric = self.task.metrics[0]
        self.inputs_of_e = self.encode(self.E)
        if warning := explain_length(run, self.source, config.limit, self.inputs_of_e):
            logger.warning(warning)
        self.planned = 3 * count_planned_steps(run, len(self.D))  # of the rounds, both controls
        # What was encoded last: the rows of a whole round.
        self._rows: list[Row] | None = None
        self._inputs: EncodedRows | None = None
        self._passed: dict[str, int] = {}  # steps of each training that is finished, by name
        self._steps, self._seconds = 0, 0.0  # of this process

    def encode(self, rows: list[Row]) -> EncodedRows:
        """Encode rows with the student's tokenizer."""
        return encode_rows(self.task, rows, self.tokenizer, self.run.data.length)

    def encode_task(self, rows: dict[str, list[Row]]) -> TaskExamples:
        """Encode splits of the task with the student's tokenizer."""
        return encode_examples(self.task, rows, self.tokenizer, self.run.data.length)

    def train(self, job: TrainingJob, rows: list[Row]) -> Path:
        """Do a training on rows, or find that it was done; return its folder."""
        folder = self.folder / job.name
        if TrainingResult.read(folder) is None:
            if rows is not self._rows:
                self._rows, self._inputs = rows, self.encode(rows)
            parts = {"train": soften_rows(self.task, rows), "val": self.E}
            inputs = {"train": self._inputs, "val": self.inputs_of_e}
            length = self.run.data.length
            examples = TaskExamples(self.task, self.tokenizer, length, parts, inputs)
            run = apply_theta(self.run, job.theta, self.rate, job.steps)
            try:
                self.fit(run, folder, self.source, examples, job.name)
            except Diverged as error:  # a result: the θ is a bad one
                logger.info(f"{job.name} drops out: {error}")
                failed = RunSummary({"failed": str(error), "steps": 0})
                RunFolder(folder).write_summary(failed)
        self._passed[job.name] = TrainingResult.read(folder).steps
        return folder

    def launch_trainings(self, jobs: list[TrainingJob], rows: list[Row]) -> None:
        """Have the launcher, if there is one, do those of the trainings that are not done."""
        waiting = [job for job in jobs if TrainingResult.read(self.folder / job.name) is None]
        if self.launch is None or len(waiting) < 2:
            return
        path = (self.folder / waiting[0].name).parent / LAUNCHED_ROWS
        write_generated(path, [Generated(row, row, 1.0) for row in rows[len(self.D) :]])
        file = str(path.relative_to(self.folder))
        facts = {
            job.name: {"theta": asdict(job.theta), "steps": job.steps, "rows": file}
            for job in waiting
        }
        write_json(self.folder / LAUNCHED, facts)
        logger.info(f"{counted(len(waiting), 'training')} go to the launcher")
        self.launch([job.name for job in waiting])

    def fit(
        self, run: TrainConfig, folder: Path, encoder: str, examples: TaskExamples, label: str
    ) -> None:
        """Fine-tune an encoder into `folder` from its newest checkpoint, and score it on E.

        examples: `train` and, as `val`, E. S is trained by this too.
        """
        start = time.monotonic()
        run_folder = RunFolder(folder)
        with run_folder.lock(False):
            run_folder.begin(run, None, torch.get_num_threads())
            facts = {"digest": hash_rows(examples.rows), "source": self.task.name}
            run_folder.check_inputs(facts, {"model": hub.digest_model(encoder)})
            pl.seed_everything(run.seed, verbose=False)
            body = load_masked_lm(encoder, head_required=False)
            model = build_task_classifier(body, examples, run.head, run.dropout, run.seed)
            best, training = train_classifier(run, folder, model, examples, label)
            answers = answer_split(best, examples, "val")
            values = compute_scores(self.task, self.E, answers)
            run_folder.remove_checkpoints()
            scores = {f"eval/{metric}": value for metric, value in values.items()}
            run_folder.write_summary(RunSummary(training.to_json() | scores))
        self._steps += training.steps
        self._seconds += time.monotonic() - start

    def get_score(self, folder: Path) -> float:
        """Get a training's score on E by the task's first metric.

        It is -inf of a training that diverged, or whose score is not defined.
        """
        value = TrainingResult.read(folder).scores.get(self.metric)
        return -math.inf if value is None else value

    def explain_failure(self, folders: list[Path]) -> str:
        """Explain why none of these trainings has a score, and what to do."""
        if all(TrainingResult.read(folder).failure is not None for folder in folders):
            return "diverged; lower optim.lr, agora.grid.lr or lr_factor"
        return (
            f"gives the same answer to all rows of E, so that {self.metric} is not defined; "
            "raise optim.lr or trainer.max_epochs"
        )

    def describe_time_left(self) -> str:
        """Describe the time left at the speed so far, as in `; about 3:20 left`."""
        if not self._steps:
            return ""
        steps = max(0, self.planned - sum(self._passed.values()))
        return f"; about {clock(steps * self._seconds / self._steps)} left"


def train_one(run: TrainConfig, folder: Path, name: str) -> None:
    """Do the training of this name, of a round or a control arm, for the run in `folder`."""
    hide_lightning_notes()
    jobs: dict[str, Any] = parse_object(read_whole_text(folder / LAUNCHED), str(folder / LAUNCHED))
    with hide_notes():
        student = Student(run.with_precision(RunFolder(folder).precision), folder)
    try:
        facts = jobs[name]
        job = TrainingJob(name, Theta(**facts["theta"]), facts["steps"])
        path = folder / facts["rows"]
    except (KeyError, TypeError):
        raise BortError(f"{folder / LAUNCHED} does not describe {name}; remove it") from None
    with use_threads(RunFolder(folder).threads):
        student.train(job, student.D + read_generated(path, student.task))


def check_task(task: Task) -> None:
    """Raise BortError for a task whose rows Agora cannot make."""
    if task.parent:
        raise BortError(f"task={task.name} has no training rows; use task={task.parent}")
    if task.kind == "labels":
        raise BortError(
            "experiment=agora makes rows of one label each, and these rows may have several; use "
            "experiment=finetune or kd_finetune"
        )
    if is_falling(task.metrics[0]):
        raise BortError(
            f"data.metric={task.metrics[0]} cannot be used: Agora compares scores that rise; use r2"
        )
    if task.form == "record":
        raise BortError(
            "agora cannot make rows of superglue/record: all entities of a query belong together; "
            "use experiment=finetune"
        )
