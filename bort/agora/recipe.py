"""A whole run of Agora: S, the rounds, the control arms, and what each is worth on the dev set."""

import json
import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bort.agora.dataset import (
    Generated,
    describe_differences,
    generate_rows,
    normalize_texts,
    read_generated,
    to_hard,
    to_json,
)
from bort.agora.generators import GENERATORS, WordSource
from bort.agora.judge import examine_judge, find_teacher_source, has_seen_all_rows, open_judge
from bort.agora.report import ARMS, show_result
from bort.agora.rounds import (
    PRUNE,
    Round,
    Theta,
    apply_theta,
    count_samples,
    list_thetas,
    play_rounds,
)
from bort.agora.student import Student, read_result
from bort.config.fingerprint import flatten_settings
from bort.config.train import TrainConfig
from bort.console import counted, decimal, to_printable
from bort.errors import BortError
from bort.files.untrusted import json_object
from bort.files.writing import replacing, replacing_folder, write_csv, write_json
from bort.finetuning.answering import (
    answer_diagnostics,
    answer_split,
    compute_outputs,
    score_answers,
)
from bort.finetuning.examples import encode_examples, hash_rows
from bort.finetuning.module import compute_loss, to_answers
from bort.models import hub
from bort.models.huggingface import load_classifier, load_masked_lm, load_tokenizer
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary
from bort.tasks.encoding import describe_data
from bort.tasks.task import Row
from bort.training.loggers import build_loggers, finish_loggers
from bort.training.trainer import check_trainer, choose_device, hide_lightning_notes

logger = logging.getLogger(__name__)

HARDEST = 0.1  # of the rows that are looked at
SHOWN = 200  # generated rows in generated.jsonl


def agora(
    run: TrainConfig,
    folder: Path,
    record: dict | None = None,
    launch: Callable[[list[str]], None] | None = None,
) -> RunSummary:
    """Teach `run.model` the task `run.task` in rounds, beside both control arms.

    launch: has one of Hydra's launchers do the trainings of these names, see `train_one`; without
    it, trainings run here, one after the other.

    Returns the summary; `val/…` in it is Agora's, on the official dev set, which
    every arm sees once, at the end. Every training and every round is kept as soon as it is
    finished: the same command goes on with what is missing. Raises BortError for an S that is no
    judge, a task that cannot be generated, and as `finetune` does.
    """
    check_trainer(run)
    run_folder = RunFolder(folder)
    if (summary := run_folder.find_result(run)) is not None:
        return summary
    hide_lightning_notes()
    candidate = Student(run, folder, launch)
    task, rows = candidate.task, candidate.rows
    with run_folder.lock(False):
        run_folder.begin(run, record)
        encoder = None if run.agora.teacher else find_teacher_source(run)
        info = {"digest": hash_rows(rows), "source": task.name}
        run_folder.check_inputs(info, digest_models(run, candidate.source, encoder), run)
        if run.resume and (summary := run_folder.find_summary()) is not None:
            return summary  # a file was touched, and holds what it held
        loggers = build_loggers(run.logger, folder, flatten_settings(run))
        try:
            return AgoraRun(candidate, loggers).play(encoder)
        finally:
            finish_loggers(loggers)


def digest_models(run: TrainConfig, source: str, encoder: str | None) -> dict[str, str]:
    """Of all models that a run of Agora reads, by the setting that names each."""
    names = run.list_models() | {"model": source}
    if encoder is not None and "teacher.name" not in names:
        names["teacher"] = encoder
    return {key: hub.digest_model(name) for key, name in names.items()}


class AgoraRun:
    """A run of Agora: the rounds of its candidate, and the control arms.

    loggers: besides metrics.csv; each training is a step.
    """

    def __init__(self, candidate: Student, loggers: list):
        self.f, self.loggers = candidate, loggers
        self.run, self.folder = candidate.run, candidate.folder
        self.task = candidate.task
        self.thetas = list_thetas(self.run.agora.grid)
        self.prune = PRUNE[self.run.agora.prune]
        own = apply_theta(self.run, Theta(), candidate.rate, None)
        same = [apply_theta(self.run, t, candidate.rate, None) == own for t in self.thetas]
        # the default arm is a training of round 1 too, unless Θ has other values
        self.default = name_training(1, 0, same.index(True)) if True in same else "default"
        self.trained: list[dict] = []  # of the rounds, in their order

    def play(self, encoder: str | None) -> RunSummary:
        """All arms, one after the other; the summary.

        encoder: what S is fine-tuned from first; None where S was given.
        """
        f = self.f
        inputs = {"train": f.cast(f.D), "E": f.held}
        for line in describe_data(self.task, {"train": f.D, "E": f.E}, inputs):
            logger.info(line)
        for line in describe_differences(self.task, f.D, f.E):
            logger.warning(line)
        self.words = self._words(encoder)
        values = self._judge(encoder)
        steps = counted(f.planned, "step")
        logger.info(f"Θ: {counted(len(self.thetas), 'point')}; about {steps} in all arms together")
        best = {"default": f.train(self.default, Theta(), f.D)}
        if f.score(best["default"]) == -math.inf:
            raise BortError(f"the arm with the run's own rate {f.blame([best['default']])}")
        history = self._rounds()
        last = max(history, key=lambda each: each.score)
        best["agora"] = self._place(last)
        made = sum(len(self._stored(r.number, r.replay)) for r in history[1:])
        total = sum(row["steps"] for row in self.trained)
        best["plain"] = self._control("plain", f.D, total)
        best["random"] = self._control("random", f.D + self._random_rows(made), total)
        values |= self._finish(best, history, made, total)
        summary = RunSummary(values)
        RunFolder(self.folder).write_summary(summary)
        show_result(summary, self.folder)
        return summary

    # ---- S

    def _judge(self, encoder: str | None) -> dict:
        """Open S, after it was fine-tuned from `encoder` if that is given; how good it is."""
        place = self.run.agora.teacher or str(self.folder / "teacher")
        if encoder is not None:
            self._train_teacher(encoder, Path(place))
        self.judge = open_judge(self.task, place, self.run.data.length, choose_device(self.run))
        vals = {name: rows for name, rows in self.f.rows.items() if name.startswith("val")}
        values = examine_judge(self.judge, self.f.E, vals, self.run.agora.guard, place)
        own = self.run.agora.confidence
        self.confidence = values.get("teacher/eval/confidence", 0.0) if own is None else own
        on_E = {k.split("/")[-1]: v for k, v in values.items() if "/eval/" in k}
        shown = ", ".join(f"{name} {decimal(value)}" for name, value in on_E.items())
        logger.info(f"S: {place}: {shown} on E")
        if encoder is None and has_seen_all_rows(Path(place), self.run.task):
            logger.warning(
                "S was fine-tuned on all training rows, those of E too: what it scores on "
                "E is more than it knows"
            )
        return values

    def _train_teacher(self, encoder: str, place: Path) -> None:
        """Fine-tune S on D; E chooses its epoch."""
        if read_result(place) is None:
            logger.info(f"S: fine-tuning {encoder} on D first, kept in {place}")
            tokenizer = load_tokenizer(encoder)
            parts = {"train": self.f.D, "val": self.f.E}
            length = min(self.run.data.length, load_masked_lm(encoder, False).config.limit)
            examples = encode_examples(self.task, parts, tokenizer, length)
            data = replace(self.run.data, length=length)
            own = replace(self.run, optim=replace(self.run.optim, lr=None), data=data)
            self.f.fit(own, place, encoder, examples, "S")

    def _words(self, encoder: str | None) -> WordSource | None:
        """What the generator takes words from."""
        kind = self.run.agora.generator
        if kind == "edit":
            return None
        place = self.f.source
        if kind == "mlm":
            place = self.run.agora.mlm or encoder or place
        try:
            model = load_masked_lm(place, head_required=kind == "mlm")
        except BortError as error:
            raise BortError(
                f"agora.generator={kind}: {error}; set agora.mlm=FOLDER to a masked LM, or "
                "agora.generator=edit"
            ) from None
        return WordSource(model.to(choose_device(self.run)), load_tokenizer(place))

    # ---- rounds

    def _rounds(self) -> list[Round]:
        options = self.run.agora
        history = []
        for each in play_rounds(
            self.thetas,
            self.f.D,
            self._train_round,
            self._grow,
            self.prune,
            options.replays,
            options.rounds,
        ):
            history.append(each)
            kept = self.prune(each.ordered)
            again = f" (replay {each.replay})" if each.replay else ""
            logger.info(
                f"round {each.number}{again}: best θ ({each.thetas[each.best]}) has "
                f"{self.f.metric} {each.score:.4f} on E, {counted(len(each.data), 'row')}; "
                f"{_describe_pruning(each, kept)}{self.f.left()}"
            )
            self._record(history)
        return history

    def _train_round(self, number: int, replay: int, thetas: list[Theta], data: list[Row]) -> list:
        scores = []
        names = [name_training(number, replay, k) for k in range(len(thetas))]
        self.f.train_all([(n, theta, None) for n, theta in zip(names, thetas, strict=True)], data)
        for k, theta in enumerate(thetas):
            place = self.f.train(names[k], theta, data)
            scores.append(self.f.score(place))
            facts = {"round": number, "replay": replay, "theta": str(theta), "rows": len(data)}
            own = read_result(place)
            shown = scores[-1] if scores[-1] > -math.inf else None
            self.trained.append(facts | {"steps": own["steps"], "score": shown})
            line = {f"agora/{key}": facts[key] for key in ("round", "replay", "rows")}
            line |= {} if shown is None else {"agora/score": shown}
            for metrics_logger in self.loggers:
                metrics_logger.log_metrics(line, len(self.trained))
            best = decimal(max(scores)) if max(scores) > -math.inf else "none"
            logger.info(
                f"  round {number}, θ {k + 1} of {len(thetas)} ({theta}): "
                f"{self.f.metric} {decimal(shown)} on E, best {best}{self.f.left()}"
            )
        if max(scores) == -math.inf:
            places = [self.folder / name for name in names]
            raise BortError(f"every θ of round {number} {self.f.blame(places)}")
        best = int(np.argmax(scores))
        for k, name in enumerate(names):
            if k != best and name != self.default:
                RunFolder(self.folder / name).remove_model()
        return scores

    def _place(self, each: Round) -> Path:
        """Where the best training of a round is."""
        return self.folder / name_training(each.number, each.replay, each.best)

    def _grow(self, before: Round, number: int, replay: int) -> list[Row] | None:
        """D of a round: that of the round before and rows made from its best model's mistakes."""
        path = self._rows_file(number, replay)
        if not path.is_file():
            seed = (self.run.seed, number, replay)
            count = count_samples(self.run, len(self.f.D))
            self._make(path, self._mistakes(before), count, seed, before.data)
        new = self._stored(number, replay)
        return [*before.data, *new] if new else None

    def _mistakes(self, before: Round) -> list[Row]:
        """The rows that the best model of a round gets wrong, and the hardest others.

        Others only so far as there are few mistakes, up to a share HARDEST of the rows: a model may
        know all of D by heart.
        """
        model, _ = load_classifier(self._place(before))
        rows = self.f.D if self.run.agora.mistakes == "train" else self.f.E
        pad, labels = self.f.tokenizer.pad_token_id, torch.tensor([row.label for row in rows])
        outputs = compute_outputs(model.to(choose_device(self.run)), rows, self.f.cast(rows), pad)
        losses = compute_loss(self.task.kind, outputs, labels, "none").numpy()
        wrong = to_answers(self.task, outputs) != labels.numpy()
        if self.task.kind == "regression":
            wrong[:] = False  # no number is quite right
        count = max(int(wrong.sum()), math.ceil(HARDEST * len(rows)))
        name, mistakes = "D" if rows is self.f.D else "E", counted(int(wrong.sum()), "mistake")
        logger.info(
            f"round {before.number + 1}: {mistakes} on {name}; rows are made from "
            f"the {count:,} hardest"
        )
        chosen = np.lexsort((-losses, ~wrong))[:count]  # mistakes first
        return [rows[k] for k in np.sort(chosen)]

    def _random_rows(self, count: int) -> list[Row]:
        """As many rows as Agora made, from random rows of D."""
        path = self.folder / "random" / "rows.jsonl"
        if count and not path.is_file():
            self._make(path, self.f.D, count, (self.run.seed, 0, 0), self.f.D)
        return read_generated(path, self.task) if count else []

    def _make(self, path: Path, sources, count: int, seed: tuple, taken: list[Row]) -> None:
        """Generate rows into a file."""
        options, make = self.run.agora, GENERATORS[self.run.agora.generator]
        known = {normalize_texts(row) for rows in self.f.rows.values() for row in rows}
        known |= {normalize_texts(row) for row in taken}
        found = generate_rows(
            self.task,
            sources,
            count,
            lambda rows, random: make(self.task, rows, options.rate, random, self.words),
            self.judge,
            known,
            seed,
            self.confidence,
            options.labels == "soft",
        )
        logger.info(f"  made {counted(len(found), 'row')}{self._shares(found)}")
        if len(found) < count:
            logger.info(
                f"  warning: {count:,} were asked for; S is unsure of the others, or they were "
                "there before (agora.confidence, agora.rate)"
            )
        with replacing(path) as file:
            for each in found:
                file.write(json.dumps(to_json(each)).encode() + b"\n")

    def _shares(self, found: list[Generated]) -> str:
        if self.task.kind == "regression":
            return ""
        labels = [to_hard(each.row.label) for each in found]
        counts = {to_printable(name): labels.count(k) for k, name in enumerate(self.task.labels)}
        return ": " + ", ".join(f"{name} {count:,}" for name, count in counts.items())

    def _rows_file(self, number: int, replay: int) -> Path:
        return (self.folder / name_training(number, replay, 0)).parent / "rows.jsonl"

    def _stored(self, number: int, replay: int) -> list[Row]:
        return read_generated(self._rows_file(number, replay), self.task)

    def _record(self, history: list[Round]) -> None:
        """What a reader wants of the rounds so far; nothing is resumed from it."""
        facts = []
        for each in history:
            kept = self.prune(each.ordered)
            found = zip(map(str, each.thetas), each.scores, strict=True)
            facts.append(
                {
                    "round": each.number,
                    "replay": each.replay,
                    "rows": len(each.data),
                    "scores": {name: s if s > -math.inf else None for name, s in found},
                    "best": str(each.thetas[each.best]),
                    "pruned": [str(theta) for theta in each.thetas if theta not in kept],
                }
            )
        write_json(self.folder / "rounds.json", {"rounds": facts})
        columns = ["step", "round", "replay", "theta", "rows", "steps", "score"]
        lines = [{"step": k + 1, **row} for k, row in enumerate(self.trained)]
        write_csv(self.folder / "metrics.csv", columns, lines)

    # ---- control arms and the end

    def _control(self, arm: str, rows: list[Row], total: int) -> Path:
        """Every θ for its share of Agora's steps; the best on E."""
        count = len(self.thetas)
        shares = [max(1, total // count + (k < total % count)) for k in range(count)]
        jobs = [(f"{arm}/theta_{k}", t, shares[k]) for k, t in enumerate(self.thetas)]
        self.f.train_all(jobs, rows)
        places = [self.f.train(name, theta, rows, steps) for name, theta, steps in jobs]
        best = max(places, key=self.f.score)
        if self.f.score(best) == -math.inf:
            raise BortError(f"every θ of the arm {arm} {self.f.blame(places)}")
        logger.info(f"{ARMS[arm]}: {self.f.metric} {self.f.score(best):.4f} on E{self.f.left()}")
        return best

    def _finish(self, best: dict[str, Path], history: list[Round], made: int, total: int) -> dict:
        """Each arm's best model on dev, once; the model, its answers, table and picture."""
        rows = {name: part for name, part in self.f.rows.items() if name != "train"}
        examples = encode_examples(self.task, rows, self.f.tokenizer, self.run.data.length)
        values, steps = {}, self._steps(best, total)
        for arm in ARMS:
            model = load_classifier(best[arm])[0].to(choose_device(self.run))
            names = rows if arm == "agora" else examples.validation_rows
            found = {name: answer_split(model, examples, name) for name in names}
            scores = score_answers(self.task, rows, found, self.folder).to_json()
            prefix = "" if arm == "agora" else f"{arm}/"
            values |= {f"{prefix}{name}": value for name, value in scores.items()}
            values[f"{prefix}eval/{self.f.metric}"] = self.f.score(best[arm])
            values[f"{arm}/steps"] = steps[arm]
        model = load_classifier(best["agora"])[0].to(choose_device(self.run))
        answer_diagnostics(self.run, model, examples, self.folder)
        with replacing_folder(self.folder / "model") as fresh:
            shutil.copytree(best["agora"] / "model", fresh, dirs_exist_ok=True)
        self._sample(history)
        keys = ("parameters", "tokens", "tokens_per_s", "lr")
        own = read_result(best["agora"])
        each = [read_result(path.parent) or {} for path in self.folder.glob("*/**/summary.json")]
        return values | {
            **{key: own[key] for key in keys},
            "seconds": sum(summary.get("seconds", 0.0) for summary in each),
            "steps": total,
            "rounds": len(history),
            "trainings": len(self.trained),
            "generated": made,
            "pruned": len(self.thetas) - len(history[-1].thetas),
            "theta": str(max(history, key=lambda each: each.score).ordered[0]),
            "metric": f"val/{self.f.metric}",
            "task": self.task.name,
            "seed": self.run.seed,
        }

    def _steps(self, best: dict[str, Path], total: int) -> dict[str, int]:
        """Optimizer steps that each arm took; those of a training that diverged are not counted."""
        of_controls = {
            arm: sum(
                read_result(path.parent)["steps"]
                for path in (self.folder / arm).glob("*/summary.json")
            )
            for arm in ("plain", "random")
        }
        return {"default": read_result(best["default"])["steps"], **of_controls, "agora": total}

    def _sample(self, history: list[Round]) -> None:
        """generated.jsonl: rows to read, spread over the rounds."""
        paths = [self._rows_file(each.number, each.replay) for each in history[1:]]
        lines = [
            (line, path) for path in paths for line in path.read_text(encoding="utf-8").splitlines()
        ]
        with replacing(self.folder / "generated.jsonl") as file:
            for line, path in lines[:: max(1, len(lines) // SHOWN)]:
                row = json_object(line, str(path))
                shown = {k: row[k] for k in ("texts", "source", "confidence")}
                if self.task.kind != "regression":
                    row["label"] = self.task.labels[to_hard(row["label"])]
                file.write(json.dumps({"label": row["label"], **shown}).encode() + b"\n")


def _describe_pruning(each: Round, kept: list[Theta]) -> str:
    """`2 of 4 θ dropped (seed 1; lr × 3, seed 1)`, or that Θ is used up."""
    gone = [str(theta) for theta in each.thetas if theta not in kept]
    more = f"; and {len(gone) - 4} more" if len(gone) > 4 else ""
    return (
        f"{len(gone)} of {len(each.thetas)} θ dropped ({'; '.join(gone[:4])}{more})"
        if kept
        else "Θ is used up"
    )


def name_training(number: int, replay: int, theta: int) -> str:
    """The folder of a training below the run's."""
    return f"rounds/{number}{f'_replay_{replay}' if replay else ''}/theta_{theta}"
