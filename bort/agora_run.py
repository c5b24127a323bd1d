"""A whole run of Agora: S, the rounds, the control arms, and what each is worth on the dev set."""

import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch

from bort import hf
from bort.agora import (
    PRUNE,
    Generated,
    Point,
    Round,
    epoch_steps,
    generate,
    hard,
    normal,
    planned_steps,
    points,
    read_rows,
    rounds,
    softened,
    split,
    unlike,
    with_point,
    written,
)
from bort.agora_page import ARMS, show
from bort.casting import Cast, cast, data_report
from bort.cli import clock
from bort.config import Train, settings
from bort.errors import BortError, Diverged
from bort.files import replacing, replacing_folder, write_csv, write_json
from bort.finetune import (
    LR_WIDTH,
    answer_diagnostics,
    answers,
    check_length,
    digest,
    fresh_classifier,
    load_task,
    outcome,
    predict,
    row_outputs,
    task_loss,
    train_classifier,
)
from bort.generators import GENERATORS, Source
from bort.judge import judged, open_judge, saw_all, teacher_source
from bort.logger import extra_loggers, finish_loggers
from bort.pretrain import own_encoder
from bort.rows import Row, Task
from bort.runs import check_corpus, done, finished, locked, open_folder
from bort.scoring import score
from bort.training import check_trainer, quiet

Say = Callable[[str], None]
HARDEST = 0.1  # of the rows that are looked at
JOBS = "launched.json"  # what the launcher's jobs are to do
SHOWN = 200  # generated rows in generated.jsonl


def agora(
    run: Train,
    folder: Path,
    say: Say = print,
    record: dict | None = None,
    launch: Callable[[list[list[str]]], None] | None = None,
) -> dict:
    """Teach `run.model` the task `run.task` in rounds, beside both control arms.

    launch: runs train.py with each of these lists of further settings, through one of Hydra's
    launchers; without it, trainings run here, one after the other.

    Returns the content of summary.json; `val/…` in it is Agora's, on the official dev set, which
    every arm sees once, at the end. Every training and every round is kept as soon as it is
    finished: the same command goes on with what is missing. Raises BortError for an S that is no
    judge, a task that cannot be generated, and as `finetune` does.
    """
    check_trainer(run)
    if (summary := done(run, folder, say)) is not None:
        return summary
    quiet()
    arena = _arena(run, folder, say)
    arena.launch = launch
    with locked(folder, False, say):
        open_folder(folder, run, record)
        check_corpus(folder, {"digest": digest(arena.rows), "source": arena.task.name})
        arena.loggers = extra_loggers(run.logger, folder, settings(run))
        try:
            return arena.play()
        finally:
            finish_loggers(arena.loggers)


def train_one(run: Train, folder: Path, say: Say) -> None:
    """The training run.agora.training of a round or a control arm, for the run in `folder`."""
    quiet()
    name = run.agora.training
    job = json.loads((folder / JOBS).read_text())[name]
    arena = _arena(replace(run, agora=replace(run.agora, training=None)), folder, say)
    rows = arena.D + read_rows(folder / job["rows"])
    arena.train(name, Point(**job["theta"]), rows, job["steps"])


def _arena(run: Train, folder: Path, say: Say) -> "Arena":
    task, rows = load_task(run.task, run.data)
    _check_task(task)
    D, E = split(task, rows["train"], run.agora.eval_fraction)
    source = run.model or own_encoder(run, say)
    config = hf.load_masked_lm(source, head_required=False).config
    check_length(run, config.positions)
    rate = LR_WIDTH / config.hidden
    return Arena(replace(run, resume=True), folder, task, rows, D, E, str(source), rate, say)


def _check_task(task: Task) -> None:
    if task.parent:
        raise BortError(f"task={task.name} has no training rows; use task={task.parent}")
    if task.form == "record":
        raise BortError(
            "agora cannot make rows of superglue/record: all entities of a query belong together; "
            "use experiment=finetune"
        )


@dataclass
class Arena:
    """What all trainings of a run share."""

    run: Train
    folder: Path
    task: Task
    rows: dict[str, list[Row]]  # as the task has them
    D: list[Row]
    E: list[Row]
    source: str  # f: the pre-trained candidate
    rate: float  # of its width, where the run names none
    say: Say
    trained: list[dict] = field(default_factory=list)  # of the rounds, in their order
    steps: int = 0  # of this process, and the seconds that they took
    seconds: float = 0.0
    passed: int = 0  # steps of all trainings that are done, those found finished too
    planned: int = 0
    loggers: list = field(default_factory=list)
    launch: Callable | None = None

    def __post_init__(self) -> None:
        self.tokenizer = hf.load_tokenizer(self.source)
        self.held = self._cast(self.E)

    def play(self) -> dict:
        """All arms, one after the other; the content of summary.json."""
        run, say = self.run, self.say
        inputs = {"train": self._cast(self.D), "E": self.held}
        for line in data_report(self.task, {"train": self.D, "E": self.E}, inputs):
            say(line)
        for line in unlike(self.task, self.D, self.E):
            say(f"warning: {line}")
        encoder = None if run.agora.teacher else teacher_source(run, say)
        self.words = self._words(encoder)
        values = self._judge(encoder)
        self.thetas = points(run.agora.grid)
        self.planned = 3 * planned_steps(run, len(self.D)) + epoch_steps(run, len(self.D))
        say(f"Θ: {len(self.thetas)} points; about {self.planned:,} steps in all arms together")
        best = {"default": self.train("default", Point(seed=run.seed), self.D)}
        if self.score(best["default"]) == -math.inf:
            raise BortError("the run's own rate diverged; lower optim.lr")
        history = self._rounds()
        last = max(history, key=lambda each: each.score)
        best["agora"] = self._place(last, last.best)
        made = sum(len(self._stored(r.number, r.replay)) for r in history[1:])
        total = sum(row["steps"] for row in self.trained)
        best["plain"] = self._control("plain", self.D, total)
        best["random"] = self._control("random", self.D + self._random_rows(made), total)
        values |= self._finish(best, history, made, total)
        write_json(self.folder / "summary.json", values)
        show(values, self.folder)
        return values

    def _cast(self, rows: list[Row]) -> Cast:
        return cast(self.task, rows, self.tokenizer, self.run.data.length)

    # ---- S

    def _judge(self, encoder: str | None) -> dict:
        """Open S, after it was fine-tuned from `encoder` if that is given; how good it is."""
        place = self.run.agora.teacher or str(self.folder / "teacher")
        if encoder is not None:
            self._train_teacher(encoder, Path(place))
        self.judge = open_judge(self.task, place, self.run.data.length)
        vals = {name: rows for name, rows in self.rows.items() if name.startswith("val")}
        values = judged(self.judge, self.E, vals, self.run.agora.guard, place)
        own = self.run.agora.confidence
        self.confidence = values.get("teacher/eval/confidence", 0.0) if own is None else own
        shown = ", ".join(f"{k.split('/')[-1]} {v:.4f}" for k, v in values.items() if "/eval/" in k)
        self.say(f"S: {place}: {shown} on E")
        if encoder is None and saw_all(Path(place), self.run.task):
            self.say(
                "warning: S was fine-tuned on all training rows, those of E too: what it scores on "
                "E is more than it knows"
            )
        return values

    def _train_teacher(self, encoder: str, place: Path) -> None:
        """Fine-tune S on D; E chooses its epoch."""
        if finished(place) is None:
            self.say(f"S: fine-tuning {encoder} on D first, kept in {place}")
            tokenizer = hf.load_tokenizer(encoder)
            parts = {"train": self.D, "val": self.E}
            length = min(self.run.data.length, hf.load_masked_lm(encoder, False).config.positions)
            inputs = {k: cast(self.task, v, tokenizer, length) for k, v in parts.items()}
            own = replace(self.run, optim=replace(self.run.optim, lr=None))
            self._fit(own, place, encoder, tokenizer, parts, inputs, "S")

    def _words(self, encoder: str | None) -> Source | None:
        """What the generator takes words from."""
        kind = self.run.agora.generator
        if kind == "edit":
            return None
        place = self.source if kind == "nearest" else self.run.agora.mlm or encoder or self.source
        try:
            model = hf.load_masked_lm(place, head_required=kind == "mlm")
        except BortError as error:
            raise BortError(
                f"agora.generator={kind}: {error}; set agora.mlm=FOLDER to a masked LM, or "
                "agora.generator=edit"
            ) from None
        return Source(model, hf.load_tokenizer(place))

    # ---- trainings

    def train(self, name: str, theta: Point, rows: list[Row], steps: int | None = None) -> Path:
        """Train f with θ on rows, or find that it was done; returns the folder."""
        place = self.folder / name
        if finished(place) is None:
            parts = {"train": softened(self.task, rows), "val": self.E}
            inputs = {"train": self._cast(rows), "val": self.held}
            run = with_point(self.run, theta, self.rate, steps)
            try:
                self._fit(run, place, self.source, self.tokenizer, parts, inputs, name)
            except Diverged as error:  # a result: the θ is a bad one
                self.say(f"{name} drops out: {error}")
                write_json(place / "summary.json", {"failed": str(error), "steps": 0})
        self.passed += finished(place)["steps"]
        return place

    def _launch(self, jobs: list[tuple[str, Point, int | None]], rows: list[Row]) -> None:
        """Have the launcher do those of the trainings that are not done."""
        todo = [job for job in jobs if finished(self.folder / job[0]) is None]
        if self.launch is None or len(todo) < 2:
            return
        path = (self.folder / todo[0][0]).parent / "launched.jsonl"
        with replacing(path) as file:
            for row in rows[len(self.D) :]:
                file.write(json.dumps(written(Generated(row, row, 1.0))).encode() + b"\n")
        place = str(path.relative_to(self.folder))
        facts = {n: {"theta": asdict(t), "steps": s, "rows": place} for n, t, s in todo}
        write_json(self.folder / JOBS, facts)
        self.say(f"{len(todo)} trainings go to the launcher")
        self.launch([[f"agora.training={name}"] for name, *_ in todo])

    def _fit(self, run, place: Path, encoder: str, tokenizer, parts, inputs, label: str) -> None:
        """One training into `place`, with its scores on E; from the newest checkpoint there."""
        start = time.monotonic()
        with locked(place, False, self.say):
            open_folder(place, run, None)
            check_corpus(place, {"digest": digest(parts), "source": self.task.name})
            pl.seed_everything(run.seed, verbose=False)
            body = hf.load_masked_lm(encoder, head_required=False)
            body.config.dropout = body.config.attention_dropout = run.dropout
            model = fresh_classifier(self.task, body, run)
            best, numbers = train_classifier(
                run, place, self.task, model, tokenizer, parts, inputs, self.say, label
            )
            found = predict(self.task, best, self.E, inputs["val"], tokenizer.pad_token_id)
            scores = {f"eval/{k}": v for k, v in score(self.task, self.E, found).items()}
            shutil.rmtree(place / "checkpoints", ignore_errors=True)
            write_json(place / "summary.json", {**numbers, **scores})
        self.steps += numbers["steps"]
        self.seconds += time.monotonic() - start

    def score(self, place: Path) -> float:
        """On E, by the task's first metric; -inf of a θ that diverged."""
        return finished(place).get(f"eval/{self.task.metrics[0]}", -math.inf)

    def left(self) -> str:
        """`; about 3:20 left`, by the speed so far."""
        if not self.steps:
            return ""
        rest = max(0, self.planned - self.passed)
        return f"; about {clock(rest * self.seconds / self.steps)} left"

    # ---- rounds

    def _rounds(self) -> list[Round]:
        options = self.run.agora
        history = []
        for each in rounds(
            self.thetas,
            self.D,
            self._train_round,
            self._grow,
            PRUNE[options.prune],
            options.replays,
            options.rounds,
        ):
            history.append(each)
            metric = self.task.metrics[0]
            kept = PRUNE[options.prune](each.ordered)
            again = f" (replay {each.replay})" if each.replay else ""
            self.say(
                f"round {each.number}{again}: best θ ({each.thetas[each.best]}) has {metric} "
                f"{each.score:.4f} on E, {len(each.data):,} rows; {_dropped(each, kept)}"
                f"{self.left()}"
            )
            self._record(history)
        return history

    def _train_round(self, number: int, replay: int, thetas: list[Point], data: list[Row]) -> list:
        scores = []
        names = [self._name(number, replay, k) for k in range(len(thetas))]
        self._launch([(name, theta, None) for name, theta in zip(names, thetas, strict=True)], data)
        for k, theta in enumerate(thetas):
            place = self.train(names[k], theta, data)
            scores.append(self.score(place))
            facts = {"round": number, "replay": replay, "theta": str(theta), "rows": len(data)}
            own = finished(place)
            shown = scores[-1] if scores[-1] > -math.inf else None
            self.trained.append(facts | {"steps": own["steps"], "score": shown})
            line = {f"agora/{key}": facts[key] for key in ("round", "replay", "rows")}
            line |= {} if shown is None else {"agora/score": shown}
            for logger in self.loggers:
                logger.log_metrics(line, len(self.trained))
            self.say(
                f"  round {number}, θ {k + 1} of {len(thetas)} ({theta}): "
                f"{self.task.metrics[0]} {scores[-1]:.4f} on E, best {max(scores):.4f}{self.left()}"
            )
        if max(scores) == -math.inf:
            raise BortError(f"every θ of round {number} diverged; lower agora.grid.lr or lr_factor")
        best = int(np.argmax(scores))
        for k in range(len(thetas)):
            if k != best:
                shutil.rmtree(self.folder / self._name(number, replay, k) / "model", True)
        return scores

    def _name(self, number: int, replay: int, theta: int) -> str:
        return f"rounds/{number}{f'_replay_{replay}' if replay else ''}/theta_{theta}"

    def _place(self, each: Round, theta: int) -> Path:
        return self.folder / self._name(each.number, each.replay, theta)

    def _samples(self) -> int:
        return self.run.agora.samples or max(1, len(self.D) // 4)

    def _grow(self, before: Round, number: int, replay: int) -> list[Row] | None:
        """D of a round: that of the round before and rows made from its best model's mistakes."""
        path = self._rows_file(number, replay)
        if not path.is_file():
            seed = (self.run.seed, number, replay)
            self._make(path, self._mistakes(before), self._samples(), seed, before.data)
        new = self._stored(number, replay)
        return [*before.data, *new] if new else None

    def _mistakes(self, before: Round) -> list[Row]:
        """The rows that the best model of a round gets wrong, and the hardest others.

        Others only so far as there are few mistakes, up to a share HARDEST of the rows: a model may
        know all of D by heart.
        """
        model, _ = hf.load_classifier(self._place(before, before.best))
        rows = self.D if self.run.agora.mistakes == "train" else self.E
        pad, labels = self.tokenizer.pad_token_id, torch.tensor([row.label for row in rows])
        outputs = row_outputs(model, rows, self._cast(rows), pad)
        losses = task_loss(self.task.kind, outputs, labels, "none").numpy()
        wrong = answers(self.task, outputs) != labels.numpy()
        if self.task.kind == "regression":
            wrong[:] = False  # no number is quite right
        count = max(int(wrong.sum()), math.ceil(HARDEST * len(rows)))
        name = "D" if rows is self.D else "E"
        self.say(
            f"round {before.number + 1}: {wrong.sum():,} mistakes on {name}; rows are made from "
            f"the {count:,} hardest"
        )
        chosen = np.lexsort((-losses, ~wrong))[:count]  # mistakes first
        return [rows[k] for k in np.sort(chosen)]

    def _random_rows(self, count: int) -> list[Row]:
        """As many rows as Agora made, from random rows of D."""
        path = self.folder / "random" / "rows.jsonl"
        if count and not path.is_file():
            self._make(path, self.D, count, (self.run.seed, 0, 0), self.D)
        return read_rows(path) if count else []

    def _make(self, path: Path, sources, count: int, seed: tuple, taken: list[Row]) -> None:
        """Generate rows into a file."""
        options, make = self.run.agora, GENERATORS[self.run.agora.generator]
        known = {normal(row) for split in self.rows.values() for row in split}
        known |= {normal(row) for row in taken}
        found = generate(
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
        self.say(f"  made {len(found):,} rows{self._shares(found)}")
        if len(found) < count:
            self.say(
                f"  warning: {count:,} were asked for; S is unsure of the others, or they were "
                "there before (agora.confidence, agora.rate)"
            )
        with replacing(path) as file:
            for each in found:
                file.write(json.dumps(written(each)).encode() + b"\n")

    def _shares(self, found: list[Generated]) -> str:
        if self.task.kind == "regression":
            return ""
        labels = [hard(each.row.label) for each in found]
        counts = {name: labels.count(k) for k, name in enumerate(self.task.labels)}
        return ": " + ", ".join(f"{name} {count:,}" for name, count in counts.items())

    def _rows_file(self, number: int, replay: int) -> Path:
        return (self.folder / self._name(number, replay, 0)).parent / "rows.jsonl"

    def _stored(self, number: int, replay: int) -> list[Row]:
        return read_rows(self._rows_file(number, replay))

    def _record(self, history: list[Round]) -> None:
        """What a reader wants of the rounds so far; nothing is resumed from it."""
        prune = PRUNE[self.run.agora.prune]
        facts = []
        for each in history:
            kept = prune(each.ordered)
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
        self._launch(jobs, rows)
        places = [self.train(name, theta, rows, steps) for name, theta, steps in jobs]
        best = max(places, key=self.score)
        if self.score(best) == -math.inf:
            raise BortError(f"every θ of the arm {arm} diverged; lower agora.grid.lr or lr_factor")
        self.say(f"{ARMS[arm]}: {self.task.metrics[0]} {self.score(best):.4f} on E{self.left()}")
        return best

    def _finish(self, best: dict[str, Path], history: list[Round], made: int, total: int) -> dict:
        """Each arm's best model on dev, once; the model, its answers, table and picture."""
        asked = [name for name in self.rows if name != "train"]
        inputs = {name: self._cast(self.rows[name]) for name in asked}
        pad, values = self.tokenizer.pad_token_id, {}
        for arm in ARMS:
            model, _ = hf.load_classifier(best[arm])
            names = asked if arm == "agora" else [n for n in asked if n.startswith("val")]
            found = {n: predict(self.task, model, self.rows[n], inputs[n], pad) for n in names}
            scores = outcome(self.task, self.rows, found, self.folder, self.say)
            prefix = "" if arm == "agora" else f"{arm}/"
            values |= {f"{prefix}{name}": value for name, value in scores.items()}
            values[f"{prefix}eval/{self.task.metrics[0]}"] = self.score(best[arm])
        model, _ = hf.load_classifier(best["agora"])
        answer_diagnostics(self.run, self.task, model, self.tokenizer, self.folder, self.say)
        with replacing_folder(self.folder / "model") as fresh:
            shutil.copytree(best["agora"] / "model", fresh, dirs_exist_ok=True)
        self._sample(history)
        numbers = finished(best["agora"])
        own = {
            key: numbers[key] for key in ("parameters", "tokens", "tokens_per_s", "lr", "metric")
        }
        return values | {
            **own,
            "seconds": sum(finished(p.parent)["seconds"] for p in self._summaries("seconds")),
            "steps": total,
            "rounds": len(history),
            "trainings": len(self.trained),
            "generated": made,
            "pruned": len(self.thetas) - len(history[-1].thetas),
            "theta": str(max(history, key=lambda each: each.score).ordered[0]),
            "task": self.task.name,
            "seed": self.run.seed,
        }

    def _summaries(self, key: str) -> list[Path]:
        paths = sorted(self.folder.rglob("summary.json"))
        return [p for p in paths if p.parent != self.folder and key in json.loads(p.read_text())]

    def _sample(self, history: list[Round]) -> None:
        """generated.jsonl: rows to read, spread over the rounds."""
        paths = [self._rows_file(each.number, each.replay) for each in history[1:]]
        lines = [line for path in paths for line in path.read_text().splitlines()]
        with replacing(self.folder / "generated.jsonl") as file:
            for line in lines[:: max(1, len(lines) // SHOWN)]:
                row = json.loads(line)
                shown = {k: row[k] for k in ("texts", "source", "confidence")}
                if self.task.kind != "regression":
                    row["label"] = self.task.labels[hard(row["label"])]
                file.write(json.dumps({"label": row["label"], **shown}).encode() + b"\n")


def _dropped(each: Round, kept: list[Point]) -> str:
    """`2 of 4 θ dropped (seed 1; lr × 3, seed 1)`, or that Θ is used up."""
    gone = [str(theta) for theta in each.thetas if theta not in kept]
    more = f"; and {len(gone) - 4} more" if len(gone) > 4 else ""
    return (
        f"{len(gone)} of {len(each.thetas)} θ dropped ({'; '.join(gone[:4])}{more})"
        if kept
        else "Θ is used up"
    )
