"""A run of Agora, from its settings to a finished run folder: S, the rounds, the control arms.

The letters D, E, S and θ are those of `bort.agora.student`.
"""

import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bort.agora.dataset import describe_differences
from bort.agora.judge import examine_judge, find_teacher_source, has_seen_all_rows
from bort.agora.making import RowMaker, open_word_source
from bort.agora.report import show_result
from bort.agora.result import ARMS, AgoraResult, ArmResult, JudgeScores
from bort.agora.rounds import (
    PRUNE,
    Round,
    Theta,
    apply_theta,
    list_thetas,
    name_training,
    play_rounds,
)
from bort.agora.student import Student, TrainingJob, TrainingResult
from bort.config.fingerprint import flatten_settings
from bort.config.train import TrainConfig
from bort.console import counted, decimal
from bort.errors import BortError
from bort.files.run_files import METRICS, MODEL, ROUNDS, SUMMARY, TEACHER
from bort.files.writing import replace_folder, write_csv, write_json
from bort.finetuning.answering import answer_diagnostics, answer_split, score_answers
from bort.finetuning.examples import encode_examples, hash_rows
from bort.finetuning.judge import Judge, open_judge
from bort.models import hub
from bort.models.huggingface import load_classifier, load_masked_lm, load_tokenizer
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary
from bort.tasks.baselines import add_baselines, compute_baselines
from bort.tasks.overview import examine_data
from bort.tasks.task import Row
from bort.tasks.unlabelled import Pool, read_pool
from bort.training.loggers import build_loggers, finish_loggers
from bort.training.precision import settle_precision
from bort.training.threads import choose_threads, use_threads
from bort.training.trainer import check_trainer, choose_device, hide_lightning_notes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundTraining:
    """A training of a round, as a line of metrics.csv."""

    round: int
    replay: int
    theta: str
    rows: int
    steps: int
    score: float | None  # on E; None of a training that diverged or has none

    def to_json(self) -> dict:
        """Spell the training as metrics.csv has it."""
        return asdict(self)


def agora(
    run: TrainConfig,
    folder: Path,
    record: dict | None = None,
    launch: Callable[[list[str]], None] | None = None,
) -> RunSummary:
    """Teach `run.model` the task `run.task` in rounds, beside both control arms.

    launch: has one of Hydra's launchers do the trainings of these names, see `train_one`; without
    it, trainings run here, one after the other.

    Returns the summary; `val/…` in it is Agora's, on the official dev set, which every arm sees
    once, at the end. Every training and every round is kept as soon as it is
    finished, and the same command resumes with what is missing. Raises BortError for an S that is
    no judge, a task that cannot be generated, and as `finetune` does.
    """
    check_trainer(run)
    run_folder = RunFolder(folder)
    if (summary := run_folder.find_result(run)) is not None:
        return summary
    hide_lightning_notes()
    run = settle_precision(run, run_folder.precision)
    threads = choose_threads(run, run_folder.threads)
    student = Student(run, folder, launch)
    pool = read_unlabelled(student)
    encoder = None if run.agora.teacher else find_teacher_source(run)
    with run_folder.lock(False):
        run_folder.begin(run, record, threads or torch.get_num_threads())
        digest = hash_rows(student.rows | ({"pool": pool.rows} if pool else {}))
        facts = {"digest": digest, "source": student.task.name}
        run_folder.check_inputs(facts, digest_models(run, student.source, encoder), run)
        if run.resume and (summary := run_folder.find_summary()) is not None:
            return summary  # a data file was touched, and its content is the same as before
        loggers = build_loggers(run.logger, folder, flatten_settings(run))
        try:
            with use_threads(threads):
                return AgoraRun(student, loggers, pool).play(encoder)
        finally:
            finish_loggers(loggers)


def read_unlabelled(student: Student) -> Pool | None:
    """Read the rows that agora.generator=pool takes, and say what they are; None without it."""
    if student.run.agora.generator != "pool":
        return None
    rows = (row for split in student.rows.values() for row in split)
    pool = read_pool(student.task, student.run.data, rows)
    logger.info(f"data: {pool.describe()}")
    return pool


def digest_models(run: TrainConfig, source: str, encoder: str | None) -> dict[str, str]:
    """Compute the digests of all models that a run of Agora reads, by setting."""
    names = run.list_models() | {"model": source}
    if encoder is not None and "teacher.name" not in names:
        names["teacher"] = encoder
    return {key: hub.digest_model(name) for key, name in names.items()}


class AgoraRun:
    """A run of Agora: the rounds of its student, and the control arms.

    loggers: those besides metrics.csv; each training is a step of theirs. pool: the rows that
    agora.generator=pool takes.
    """

    def __init__(self, student: Student, loggers: list, pool: Pool | None = None):
        self.student, self.loggers, self.pool = student, loggers, pool
        self.run, self.folder, self.task = student.run, student.folder, student.task
        self.thetas = list_thetas(self.run.agora.grid)
        self.prune = PRUNE[self.run.agora.prune]
        # The default arm is a training of round 1 too, unless Θ has other values.
        default = apply_theta(self.run, Theta(), student.rate, None)
        runs = [apply_theta(self.run, theta, student.rate, None) for theta in self.thetas]
        is_in_round_1 = default in runs
        self.default = name_training(1, 0, runs.index(default)) if is_in_round_1 else "default"
        self.trainings: list[RoundTraining] = []  # those of the rounds, in their order

    def play(self, encoder: str | None) -> RunSummary:
        """Play all arms, one after the other; return the summary.

        encoder: what S is fine-tuned from first; None where S was given.
        """
        student = self.student
        self._describe_data()
        words = open_word_source(self.run, student.source, encoder, self.pool)
        judge, judge_scores = self._open_judge(encoder)
        least = self.run.agora.confidence
        least = (judge_scores.confidence or 0.0) if least is None else least
        maker = RowMaker(student, judge, words, least)
        steps = counted(student.planned, "step")
        logger.info(f"Θ: {counted(len(self.thetas), 'point')}; about {steps} in all arms together")
        best = {"default": student.train(TrainingJob(self.default, Theta()), student.D)}
        if student.get_score(best["default"]) == -math.inf:
            reason = student.explain_failure([best["default"]])
            raise BortError(f"the arm with the run's own rate {reason}")
        history = self._play_rounds(maker)
        best["agora"] = self._locate_best(max(history, key=lambda played: played.score))
        made = sum(len(maker.read_round(played.number, played.replay)) for played in history[1:])
        total = sum(training.steps for training in self.trainings)
        best["plain"] = self._train_control("plain", student.D, total)
        random_rows = maker.make_random_rows(made)
        best["random"] = self._train_control("random", student.D + random_rows, total)
        arms = self._score_arms(best, total)
        self._keep_model(best["agora"])
        maker.write_samples(history)
        result = self._summarize(judge_scores, arms, best["agora"], history, made)
        baselines = compute_baselines(self.task, student.rows | {"train": student.D})
        summary = RunSummary(add_baselines(result.to_json(), baselines))
        RunFolder(self.folder).write_summary(summary)
        show_result(result, self.folder)
        return summary

    def _describe_data(self) -> None:
        """Log what D and E are like, and where they are not what the theory asks for."""
        student = self.student
        parts = {"train": student.D, "E": student.E}
        inputs = {"train": student.encode(student.D), "E": student.inputs_of_e}
        for line in examine_data(self.task, parts, inputs).list_lines():
            logger.info(line)
        for line in describe_differences(self.task, student.D, student.E):
            logger.warning(line)

    # ---- S

    def _open_judge(self, encoder: str | None) -> tuple[Judge, JudgeScores]:
        """Open S, and examine how good it is; `encoder`, if given, is first fine-tuned into it."""
        student, options = self.student, self.run.agora
        source = options.teacher or str(self.folder / TEACHER)
        if encoder is not None:
            self._train_teacher(encoder, Path(source))
        judge = open_judge(self.task, source, self.run.data.length, choose_device(self.run))
        dev = {name: rows for name, rows in student.rows.items() if name.startswith("val")}
        scores = examine_judge(judge, student.E, dev, options.guard, source)
        shown = ", ".join(f"{name} {decimal(value)}" for name, value in scores.list_on_e().items())
        logger.info(f"S: {source}: {shown} on E")
        if encoder is None and has_seen_all_rows(Path(source), self.run.task):
            logger.warning(
                "S was fine-tuned on all training rows, those of E too: what it scores on "
                "E is more than it knows"
            )
        return judge, scores

    def _train_teacher(self, encoder: str, folder: Path) -> None:
        """Fine-tune S on D; E chooses its epoch."""
        if TrainingResult.read(folder) is not None:
            return
        logger.info(f"S: fine-tuning {encoder} on D first, kept in {folder}")
        tokenizer = load_tokenizer(encoder)
        length = min(self.run.data.length, load_masked_lm(encoder, False).config.limit)
        parts = {"train": self.student.D, "val": self.student.E}
        examples = encode_examples(self.task, parts, tokenizer, length)
        data, optim = self.run.data.with_length(length), replace(self.run.optim, lr=None)
        run = replace(self.run, optim=optim, data=data)
        self.student.fit(run, folder, encoder, examples, "S")

    # ---- rounds

    def _play_rounds(self, maker: RowMaker) -> list[Round]:
        student, options = self.student, self.run.agora
        history = []
        for played in play_rounds(
            self.thetas,
            student.D,
            self._train_round,
            maker.grow,
            self.prune,
            options.replays,
            options.rounds,
        ):
            history.append(played)
            again = f" (replay {played.replay})" if played.replay else ""
            pruning = _describe_pruning(played, self.prune(played.ordered))
            logger.info(
                f"round {played.number}{again}: best θ ({played.thetas[played.best]}) has "
                f"{student.metric} {played.score:.4f} on E, {counted(len(played.data), 'row')}; "
                f"{pruning}{student.describe_time_left()}"
            )
            self._write_rounds(history)
        return history

    def _train_round(
        self, number: int, replay: int, thetas: list[Theta], data: list[Row]
    ) -> list[float]:
        """Train with every θ of a round; return the scores on E."""
        student, scores = self.student, []
        jobs = [
            TrainingJob(name_training(number, replay, k), theta) for k, theta in enumerate(thetas)
        ]
        student.launch_trainings(jobs, data)
        for k, job in enumerate(jobs):
            folder = student.train(job, data)
            scores.append(student.get_score(folder))
            score = scores[-1] if scores[-1] > -math.inf else None
            steps = TrainingResult.read(folder).steps
            self._log(RoundTraining(number, replay, str(job.theta), len(data), steps, score))
            best = decimal(max(scores)) if max(scores) > -math.inf else "none"
            logger.info(
                f"  round {number}, θ {k + 1} of {len(thetas)} ({job.theta}): {student.metric} "
                f"{decimal(score)} on E, best {best}{student.describe_time_left()}"
            )
        if max(scores) == -math.inf:
            reason = student.explain_failure([self.folder / job.name for job in jobs])
            raise BortError(f"every θ of round {number} {reason}")
        best = int(np.argmax(scores))
        for k, job in enumerate(jobs):
            if k != best and job.name != self.default:
                RunFolder(self.folder / job.name).remove_model()
        return scores

    def _log(self, training: RoundTraining) -> None:
        """Add a training to those of the rounds, and hand it to the loggers."""
        self.trainings.append(training)
        line = {
            "agora/round": training.round,
            "agora/replay": training.replay,
            "agora/rows": training.rows,
        }
        if training.score is not None:
            line["agora/score"] = training.score
        for metrics_logger in self.loggers:
            metrics_logger.log_metrics(line, len(self.trainings))

    def _locate_best(self, played: Round) -> Path:
        """Name the folder of the best training of a round."""
        return self.folder / name_training(played.number, played.replay, played.best)

    def _write_rounds(self, history: list[Round]) -> None:
        """Write what a reader wants to know of the rounds so far; nothing is resumed from it."""
        facts = [played.to_json(self.prune(played.ordered)) for played in history]
        write_json(self.folder / ROUNDS, {"rounds": facts})
        columns = ["step", "round", "replay", "theta", "rows", "steps", "score"]
        lines = [{"step": k, **row.to_json()} for k, row in enumerate(self.trainings, start=1)]
        write_csv(self.folder / METRICS, columns, lines)

    # ---- control arms and the end

    def _train_control(self, arm: str, rows: list[Row], total: int) -> Path:
        """Train with every θ for its share of Agora's steps; return the best training on E."""
        student, count, jobs = self.student, len(self.thetas), []
        for k, theta in enumerate(self.thetas):
            steps = max(1, total // count + (k < total % count))
            jobs.append(TrainingJob(f"{arm}/theta_{k}", theta, steps))
        student.launch_trainings(jobs, rows)
        folders = [student.train(job, rows) for job in jobs]
        best = max(folders, key=student.get_score)
        if student.get_score(best) == -math.inf:
            raise BortError(f"every θ of the arm {arm} {student.explain_failure(folders)}")
        score = f"{student.metric} {student.get_score(best):.4f} on E"
        logger.info(f"{ARMS[arm]}: {score}{student.describe_time_left()}")
        return best

    def _score_arms(self, best: dict[str, Path], total: int) -> dict[str, ArmResult]:
        """Score each arm's best model on dev, once; write the answers of Agora's."""
        student = self.student
        rows = {name: part for name, part in student.rows.items() if name != "train"}
        examples, steps = student.encode_task(rows), self._count_steps(best["default"], total)
        results = {}
        for arm in ARMS:
            model = load_classifier(best[arm])[0].to(choose_device(self.run))
            names = rows if arm == "agora" else examples.validation_rows
            answers = {name: answer_split(model, examples, name) for name in names}
            scores = score_answers(self.task, rows, answers, self.folder)
            on_e = student.get_score(best[arm])
            results[arm] = ArmResult(scores.to_json(), on_e, steps[arm])
        model = load_classifier(best["agora"])[0].to(choose_device(self.run))
        answer_diagnostics(self.run, model, examples, self.folder)
        return results

    def _count_steps(self, default: Path, total: int) -> dict[str, int]:
        """Count the optimizer steps of each arm; those of a diverged training do not count."""
        steps = {"default": TrainingResult.read(default).steps, "agora": total}
        for arm in ("plain", "random"):
            folders = [path.parent for path in (self.folder / arm).glob(f"*/{SUMMARY}")]
            steps[arm] = sum(TrainingResult.read(folder).steps for folder in folders)
        return steps

    def _keep_model(self, best: Path) -> None:
        with replace_folder(self.folder / MODEL) as fresh:
            shutil.copytree(best / MODEL, fresh, dirs_exist_ok=True)

    def _summarize(
        self,
        judge: JudgeScores,
        arms: dict[str, ArmResult],
        best: Path,
        history: list[Round],
        made: int,
    ) -> AgoraResult:
        """Collect what was found; best: the training that Agora chose; made: rows, generated."""
        numbers = TrainingResult.read(best).numbers
        folders = [path.parent for path in self.folder.glob(f"*/**/{SUMMARY}")]
        results = [TrainingResult.read(folder) for folder in folders]
        return AgoraResult(
            judge=judge,
            arms=arms,
            **{key: numbers[key] for key in ("parameters", "tokens", "tokens_per_s", "lr")},
            seconds=sum(result.seconds for result in results if result is not None),
            steps=arms["agora"].steps,
            rounds=len(history),
            trainings=len(self.trainings),
            generated=made,
            pruned=len(self.thetas) - len(history[-1].thetas),
            theta=str(max(history, key=lambda played: played.score).ordered[0]),
            metric=f"val/{self.student.metric}",
            task=self.task.name,
            seed=self.run.seed,
            precision=str(self.run.trainer_config.precision),
        )


def _describe_pruning(played: Round, next_thetas: list[Theta]) -> str:
    """Say which θs are dropped, as in `2 of 4 θ dropped (seed 1; lr × 3, seed 1)`."""
    if not next_thetas:
        return "Θ is used up"
    gone = [str(theta) for theta in played.thetas if theta not in next_thetas]
    more = f"; and {len(gone) - 4} more" if len(gone) > 4 else ""
    return f"{len(gone)} of {len(played.thetas)} θ dropped ({'; '.join(gone[:4])}{more})"
