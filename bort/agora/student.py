"""f, the candidate that Agora teaches: D and E, and its training with any θ on any rows.

Each training has a folder of its own and is recorded there as soon as it is finished.
"""

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import lightning.pytorch as pl

from bort.agora.dataset import Generated, read_generated, soften_rows, split_rows, to_json
from bort.agora.rounds import Theta, apply_theta, count_planned_steps
from bort.config.train import TrainConfig
from bort.console import clock, counted
from bort.errors import BortError, Diverged
from bort.files.text_files import read_whole_text
from bort.files.untrusted import json_object
from bort.files.writing import replacing, write_json
from bort.finetuning.answering import answer_split
from bort.finetuning.examples import TaskExamples, hash_rows
from bort.finetuning.heads import build_task_classifier
from bort.finetuning.module import LR_WIDTH, list_scores
from bort.finetuning.recipe import check_length, explain_length, train_classifier
from bort.models import hub
from bort.models.huggingface import load_masked_lm, load_tokenizer
from bort.pretraining.recipe import pretrain_encoder
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary
from bort.tasks.encoding import EncodedRows, encode_rows
from bort.tasks.metrics import compute_scores
from bort.tasks.reading import load_task
from bort.tasks.task import Row, Task
from bort.training.trainer import check_monitors, hide_lightning_notes

logger = logging.getLogger(__name__)

JOBS = "launched.json"  # what the launcher's jobs are to do


class Student:
    """f from its pre-trained weights on the task of `run`; everything is kept in `folder`.

    launch: see `agora_run.agora`. Raises BortError for a task that Agora cannot do, data that
    cannot be split, or a wrong model.
    """

    def __init__(self, run: TrainConfig, folder: Path, launch: Callable | None = None):
        self.run, self.folder = replace(run, resume=True), folder
        self.launch = launch
        if run.model:
            hub.find_model(run.model)  # a wrong name, before rows are read
        self.task, self.rows = load_task(run.task, run.data)
        check_task(self.task)
        check_monitors(run, list_scores(self.task, ["val"]))
        self.D, self.E = split_rows(self.task, self.rows["train"], run.agora.eval_fraction)
        self.source = str(run.model or pretrain_encoder(run))
        config = load_masked_lm(self.source, head_required=False).config
        check_length(run, config.positions)
        self.rate = LR_WIDTH / config.hidden  # where the run names none
        self.tokenizer = load_tokenizer(self.source)
        self.metric = self.task.metrics[0]
        self.held = self.cast(self.E)
        if warning := explain_length(run, self.source, config.limit, self.held):
            logger.warning(warning)
        self.planned = 3 * count_planned_steps(run, len(self.D))  # of the rounds and both controls
        self._rows: list[Row] | None = None  # that were cast last: those of a whole round
        self._inputs: EncodedRows | None = None
        self._passed: dict[str, int] = {}  # steps of what is done, what was found finished too
        self._steps, self._seconds = 0, 0.0  # of this process

    def cast(self, rows: list[Row]) -> EncodedRows:
        return encode_rows(self.task, rows, self.tokenizer, self.run.data.length)

    def train(self, name: str, theta: Theta, rows: list[Row], steps: int | None = None) -> Path:
        """Train with θ on rows, or find that it was done; returns the folder.

        steps: instead of the run's epochs.
        """
        place = self.folder / name
        if read_result(place) is None:
            if rows is not self._rows:
                self._rows, self._inputs = rows, self.cast(rows)
            parts = {"train": soften_rows(self.task, rows), "val": self.E}
            inputs = {"train": self._inputs, "val": self.held}
            length = self.run.data.length
            examples = TaskExamples(self.task, self.tokenizer, length, parts, inputs)
            run = apply_theta(self.run, theta, self.rate, steps)
            try:
                self.fit(run, place, self.source, examples, name)
            except Diverged as error:  # a result: the θ is a bad one
                logger.info(f"{name} drops out: {error}")
                failed = RunSummary({"failed": str(error), "steps": 0})
                RunFolder(place).write_summary(failed)
        self._passed[name] = read_result(place)["steps"]
        return place

    def train_all(self, jobs: list[tuple[str, Theta, int | None]], rows: list[Row]) -> None:
        """Have the launcher, if there is one, do those of the trainings that are not done.

        jobs: (name, θ, steps), as of `train`.
        """
        todo = [job for job in jobs if read_result(self.folder / job[0]) is None]
        if self.launch is None or len(todo) < 2:
            return
        path = (self.folder / todo[0][0]).parent / "launched.jsonl"
        with replacing(path) as file:
            for row in rows[len(self.D) :]:
                file.write(json.dumps(to_json(Generated(row, row, 1.0))).encode() + b"\n")
        place = str(path.relative_to(self.folder))
        facts = {n: {"theta": asdict(t), "steps": s, "rows": place} for n, t, s in todo}
        write_json(self.folder / JOBS, facts)
        logger.info(f"{counted(len(todo), 'training')} go to the launcher")
        self.launch([name for name, *_ in todo])

    def fit(
        self,
        run: TrainConfig,
        place: Path,
        encoder: str,
        examples: TaskExamples,
        label: str,
    ) -> None:
        """Fine-tune an encoder into `place`, with its scores on E; of S too.

        From the newest checkpoint there. examples: `train` and, as `val`, E.
        """
        start = time.monotonic()
        run_folder = RunFolder(place)
        with run_folder.lock(False):
            run_folder.begin(run, None)
            info = {"digest": hash_rows(examples.rows), "source": self.task.name}
            run_folder.check_inputs(info, {"model": hub.digest_model(encoder)})
            pl.seed_everything(run.seed, verbose=False)
            body = load_masked_lm(encoder, head_required=False)
            model = build_task_classifier(body, examples, run.head, run.dropout, run.seed)
            best, training = train_classifier(run, place, model, examples, label)
            found = answer_split(best, examples, "val")
            scores = {f"eval/{k}": v for k, v in compute_scores(self.task, self.E, found).items()}
            run_folder.remove_checkpoints()
            run_folder.write_summary(RunSummary(training.to_json() | scores))
        self._steps += training.steps
        self._seconds += time.monotonic() - start

    def score(self, place: Path) -> float:
        """On E, by the task's first metric; -inf of one that diverged or has none."""
        value = read_result(place).get(f"eval/{self.metric}")
        return -math.inf if value is None else value

    def blame(self, places: list[Path]) -> str:
        """Why none of these trainings has a score, and what to do."""
        if all("failed" in read_result(place) for place in places):
            return "diverged; lower optim.lr, agora.grid.lr or lr_factor"
        return (
            f"gives the same answer to all rows of E, so that {self.metric} is not defined; "
            "raise optim.lr or trainer.max_epochs"
        )

    def left(self) -> str:
        """`; about 3:20 left`, by the speed so far."""
        if not self._steps:
            return ""
        rest = max(0, self.planned - sum(self._passed.values()))
        return f"; about {clock(rest * self._seconds / self._steps)} left"


NOTED = ("steps", "seconds", "parameters", "tokens", "tokens_per_s", "lr")  # of a training


def read_result(place: Path) -> RunSummary | None:
    """The summary of a training that is finished; None where there is none, or not as it was left.

    A damaged one is of no use: the training is done again.
    """
    summary = RunFolder(place).settle_finished()
    if summary is None:
        return None
    numbers = [summary.get(key) for key in (("steps",) if "failed" in summary else NOTED)]
    return summary if all(type(number) in (int, float) for number in numbers) else None


def train_one(run: TrainConfig, folder: Path, name: str) -> None:
    """Do the training of this name, of a round or a control arm, for the run in `folder`."""
    hide_lightning_notes()
    jobs = json_object(read_whole_text(folder / JOBS), str(folder / JOBS))
    candidate = Student(run, folder)
    try:
        job = jobs[name]
        theta, steps, path = Theta(**job["theta"]), job["steps"], folder / job["rows"]
    except (KeyError, TypeError):
        raise BortError(f"{folder / JOBS} does not describe {name}; remove it") from None
    candidate.train(name, theta, candidate.D + read_generated(path, candidate.task), steps)


def check_task(task: Task) -> None:
    """Raises BortError for a task whose rows Agora cannot make."""
    if task.parent:
        raise BortError(f"task={task.name} has no training rows; use task={task.parent}")
    if task.form == "record":
        raise BortError(
            "agora cannot make rows of superglue/record: all entities of a query belong together; "
            "use experiment=finetune"
        )
