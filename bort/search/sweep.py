"""Evaluate candidates on shared batches, masks and teacher outputs (arXiv 2010.10499, §3).

The maximum point T runs once per batch for the whole sweep: its head states at the masked positions
are kept on disk, and one product with its decoder rebuilds its logits. A candidate is one run
folder with a `point.json`; `optimum.py` turns these records into the choice.
"""

import csv
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from torch.nn import functional as F
from torch.utils.data import Dataset

from bort.config.data import DataConfig
from bort.config.optim import width_lr
from bort.config.search import SearchRunConfig
from bort.config.train import TrainConfig
from bort.console import Progress, clock, counted
from bort.errors import BortError, Diverged, is_out_of_memory
from bort.files.run_files import remove_checkpoints
from bort.models import hub
from bort.models.arch import Arch
from bort.models.bert import MaskedLM
from bort.models.huggingface import load_masked_lm, read_model_config
from bort.objectives.latency import check_device, measure_latencies
from bort.objectives.latency_table import read_latency_table
from bort.objectives.parameters import count_parameters
from bort.pretraining import flops
from bort.pretraining.corpus import Corpus
from bort.pretraining.datamodule import TrainBatches, ValBatches
from bort.pretraining.flops import Text
from bort.pretraining.recipe import hash_teacher, prepare, train
from bort.pretraining.teacher_states import TeacherStates
from bort.runs.folder import RunFolder
from bort.search.fptas import Scale, Selection
from bort.search.records import (
    CROWDED,
    Job,
    Paired,
    best_record,
    crowded_jobs,
    failed_record,
    job_of,
    origin_of,
    read_checked,
    read_plan,
    read_record,
    records,
    save_array,
    write_checked,
    write_plan,
)
from bort.training.trainer import check_trainer, choose_device

logger = logging.getLogger(__name__)

POSITIONS = 8192  # at least so many masked positions decide an error


# ------------------------------------------------------------------------------ before the sweep


@contextmanager
def opened(run: SearchRunConfig, folder: Path, record: dict | None = None) -> Iterator["Sweep"]:
    """The sweep of these settings in `folder`, prepared; one process at a time works there.

    record: file name → text for the folder's `.hydra`; by default the settings alone.
    """
    check_trainer(run)
    check_device(run.latency)
    run_folder = RunFolder(folder)
    run_folder.check_settings(run)
    check_latency(run, folder)
    if record is None:
        config = OmegaConf.to_yaml(OmegaConf.create(asdict(run)))
        record = {"config.yaml": config, "overrides.yaml": "[]"}
    with run_folder.lock(wait=False):
        run_folder.begin(run, record)
        yield Sweep(run, folder)


def run_here(run: SearchRunConfig, folder: Path) -> dict:
    """A whole sweep in this process, without Hydra's launchers; returns its plan."""
    alone = replace(run.search, parallel=1)
    with opened(run, folder) as sweep:
        while batch := sweep.ask():
            for job in batch:
                optim = replace(run.optim, lr=job.lr)
                own = replace(run, arch=job.xi, seed=job.seed, optim=optim, search=alone)
                evaluate(own, folder, folder / job.folder)
            sweep.collect(batch)
        return sweep.plan


def check_latency(run: SearchRunConfig, folder: Path) -> None:
    """Raises BortError, before T is trained, for a latency table that cannot be used."""
    if run.latency.source != "table" or (run.resume and (folder / "latency.json").exists()):
        return
    archs = run.grid.points()[0]
    if run.teacher.name is None:
        archs = [run.teacher.arch, *archs]
    elif isinstance(place := hub.find_model(run.teacher.name), Path):
        archs = [read_model_config(place).arch, *archs]
    read_latency_table(Path(run.latency.path), list(dict.fromkeys(archs)))


def measure(run: SearchRunConfig, teacher: Arch, vocab_size: int, folder: Path) -> dict:
    """î of T and of every candidate, by `latency.source`, recorded once in `latency.json`."""
    path = folder / "latency.json"
    if path.exists():
        return read_checked(path, "delete it and repeat the command")
    archs = list(dict.fromkeys([teacher, *run.grid.points()[0]]))
    found = measure_latencies(run.latency, archs, teacher, vocab_size, folder)
    write_checked(path, found)
    return found


# ------------------------------------------------------------------------------------- the sweep


class Sweep:
    """What the sweeper asks and tells; everything that it knows is in the run folder."""

    def __init__(self, run: SearchRunConfig, folder: Path):
        self.run, self.folder = run, folder
        _OPEN.clear()  # the cache may be another one by now
        corpus, teacher = _opened(run, folder)
        (self.digest,) = hash_teacher(run, corpus).values()
        self.plan = self._plan(corpus, teacher)
        self._refresh()
        self._announce()

    def _refresh(self) -> None:
        self.records = records(self.folder, self.plan)
        paired = Paired(self.folder, self.records, self.run)
        self.selection = selection(self.plan, self.run, self.records, paired)

    def _plan(self, corpus: Corpus, teacher: MaskedLM) -> dict:
        """T's numbers, every candidate's p and i, and the shared teacher pass, on disk."""
        run, folder = self.run, self.folder
        shape = teacher.config.arch
        vocab = teacher.config.vocab_size
        if (folder / "search.json").exists():  # written last: all else is there, too
            plan = read_plan(folder)
            self._restore(corpus, teacher)
            return plan
        val = _val_batches(corpus, run)
        if not len(val):
            raise BortError("search.py needs validation text; raise data.val_fraction")
        latency = measure(run, shape, vocab, folder)
        plan = self._candidates(teacher, shape, latency)
        selection(plan, run, [])  # raises, before T runs, when the budgets leave none
        start = time.monotonic()
        states = TeacherStates(folder / "teacher" / "val", teacher.config.hidden)
        tick = Progress(logger, "teacher: validation batch").update
        states.build(teacher.to(choose_device(run)), val, len(val), tick)
        count = self._batches(corpus)
        train = _teacher_pass(run, corpus, teacher, folder, run.seed, count)
        entropy, unigram = teacher_entropy(teacher, val, states, corpus)
        save_array(folder / "teacher" / "entropy.npy", entropy)
        documents, length = val.documents(), run.data.length
        held = Text(len(val.chosen) * length, length, len(entropy))
        save_array(folder / "teacher" / "documents.npy", documents)
        plan["teacher"] |= {
            "error": float(entropy.mean(dtype=np.float64)),
            "unigram_error": unigram,
        }
        plan |= {
            "positions": len(entropy),
            "documents": len(np.unique(documents)),
            **self._count(plan, corpus, shape, vocab, train, held),
            "teacher_pass_seconds": time.monotonic() - start,
        }
        return write_plan(folder, plan, run, corpus.info["digest"])

    def _restore(self, corpus: Corpus, teacher: MaskedLM) -> None:
        """Make those of T's states again that are no longer as they were written."""
        run, val = self.run, _val_batches(corpus, self.run)
        states = TeacherStates(self.folder / "teacher" / "val", teacher.config.hidden)
        tick = Progress(logger, "teacher: validation batch").update
        states.build(teacher.to(choose_device(run)), val, len(val), tick)
        _teacher_pass(run, corpus, teacher, self.folder, run.seed, self._batches(corpus))

    def _candidates(self, teacher: MaskedLM, shape: Arch, latency: dict) -> dict:
        """p and î of T and of every point; T's error is not known yet."""
        run, vocab = self.run, teacher.config.vocab_size
        valid, invalid = run.grid.points()
        positions = max(run.data.length, 512)
        return {
            "teacher": {
                "xi": shape.to_json(),
                "name": run.teacher.name,
                "digest": self.digest,
                "parameters": sum(p.numel() for p in teacher.parameters()),
                "latency": latency["points"][str(shape)],
                "error": 1.0,
            },
            "points": [
                {
                    "xi": arch.to_json(),
                    "parameters": count_parameters(arch, vocab, positions),
                    "body": count_parameters(arch, 0, 0),
                    "latency": latency["points"][str(arch)],
                }
                for arch in valid
            ],
            "invalid": [arch.to_json() for arch in invalid],
            "exponents": run.search.exponents,
            "latency": {"unit": latency["unit"], "note": latency["note"]},
        }

    def _count(
        self, plan: dict, corpus: Corpus, shape: Arch, vocab: int, train: Text, val: Text
    ) -> dict:
        """FLOPs of T's pass over the training batches of one seed, and over the validation.

        Gives every point of `plan` the FLOPs of its training, too. train, val: what was read.
        """
        n, batches = self.run.search.n, self._batches(corpus)
        sequences = int(val.tokens / val.length)
        for point in plan["points"]:
            job = candidate_settings(replace(self.run, arch=Arch.from_json(point["xi"])), sequences)
            amount = flops.Amount(n, batches, flops.count_validations(job, batches), train, val)
            point["flops"] = flops.count_candidate_flops(job, shape, vocab, amount)
        return {
            "teacher_flops": flops.count_states_flops(shape, train),
            "teacher_val_flops": flops.count_logits_flops(shape, vocab, val),
        }

    def _batches(self, corpus: Corpus) -> int:
        """That one candidate is trained on."""
        per_epoch = len(TrainBatches(corpus, self.run.data, self.run.seed))
        return flops.count_batches(self.run, self.run.search.n, per_epoch)

    def _announce(self) -> None:
        chosen, teacher = self.selection, self.plan["teacher"]
        logger.info(
            f"search: {len(chosen.order)} of {counted(len(chosen.points), 'candidate')} below "
            f"T = {Arch.from_json(teacher['xi'])} and within the budgets; T's entropy "
            f"{teacher['error']:.3f} nats at {self.plan['positions']:,} positions, unigram "
            f"{teacher['unigram_error']:.3f}"
        )
        if self.records:
            logger.info(f"search: {len(self.records)} recorded already")

    def ask(self) -> list[Job]:
        """The next jobs, at most `search.parallel` of them; none when the search is over.

        One that found no memory beside others is a batch of its own.
        """
        batch = self.selection.ask(self.run.search.parallel)
        jobs = [Job(xi, self.run.seed, self.run.optim.lr) for xi in batch]
        if not batch:
            jobs = self._due_finalists()[: self.run.search.parallel]
        if crowded := [job for job in crowded_jobs(self.folder, self.plan) if job in jobs]:
            logger.info(f"search: {crowded[0]} found no memory beside others; now alone")
            return crowded[:1]
        if batch:
            self._progress(batch)
        else:
            for job in jobs:
                rate = width_lr(job.xi.hidden, job.lr, self.run.search.kappa)  # of its width
                logger.info(
                    f"search: finalist {job.xi} is trained again with seed {job.seed}, "
                    f"lr {rate:.3g}"
                )
        return jobs

    def _due_finalists(self) -> list[Job]:
        """As `due_finalists`; T has run over their batches then."""
        due = due_finalists(self.run, self.selection, self.records)
        self._further_passes({job.seed for job in due})
        return due

    def _further_passes(self, seeds: set[int]) -> None:
        """Other seeds are other batches: T runs over them once, too, for all finalists."""
        if seeds <= {self.run.seed}:
            return
        corpus, teacher = _opened(self.run, self.folder)
        count = self._batches(corpus)
        for seed in sorted(seeds):
            _teacher_pass(self.run, corpus, teacher, self.folder, seed, count)

    def collect(self, batch: list[Job], died: str | None = None) -> None:
        """Take what the jobs of `batch` have recorded.

        died: why a process ended without a record: a result of its candidate, like any other. So
        is a lack of memory, when there was no other job.
        """
        crowded = crowded_jobs(self.folder, self.plan)
        for job in batch:
            path = self.folder / job.folder / "point.json"
            if died and not path.exists():
                write_checked(path, failed_record(self.plan, job, died))
            elif len(batch) == 1 and job in crowded:
                write_checked(path, failed_record(self.plan, job, "out of memory"))
        self._refresh()
        for record in self.records:
            if record["status"] == "failed" and (job := job_of(record)) in batch:
                first = (job.seed, job.lr) == (self.run.seed, self.run.optim.lr)
                who = str(job.xi) if first else f"finalist {job}"
                logger.info(f"search: {who} failed: {record['reason']}")

    def _progress(self, batch: list[Arch]) -> None:
        chosen = self.selection
        done = sum(map(chosen.ended, chosen.order))
        able = [xi for xi in chosen.order if not chosen.ended(xi)]
        left = list(filter(chosen.can_win(chosen.gibbs), able))
        proven = len(able) - len(left)
        work = {Arch.from_json(p["xi"]): p["flops"] for p in self.plan["points"]}
        past = [r for r in self.records if r["status"] == "trained"]
        eta = ""
        if spent := sum(work[r["xi"]] for r in past):
            rate = sum(r["wall"] for r in past) / spent
            eta = f" · at most about {clock(sum(work[xi] for xi in left) * rate)} for the rest"
        best = (
            f" · best W {chosen.w_coefficient(chosen.best):.4f} {chosen.best}"
            if chosen.best
            else ""
        )
        names = ", ".join(map(str, batch))
        logger.info(
            f"search: candidate {done + 1} of at most {done + len(left)}: {names}{best} · "
            f"{proven} proven away{eta}"
        )


def _val_batches(corpus: Corpus, run: TrainConfig) -> ValBatches:
    """Held-out batches with at least POSITIONS masked positions, if the text has them."""
    return ValBatches(corpus, replace(run.data, val_sequences=held_sequences(run.data)))


def held_sequences(data: DataConfig) -> int:
    """How many held-out sequences decide an error, if the text has them."""
    return max(data.val_sequences, math.ceil(POSITIONS / (0.14 * data.length)))


def _teacher_pass(
    run: TrainConfig,
    corpus: Corpus,
    teacher: MaskedLM,
    folder: Path,
    seed: int,
    batches: int,
) -> Text:
    """Keep T's states over the first batches of this seed; returns what they were made from."""
    states = TeacherStates(folder / "teacher" / f"train-s{seed}", teacher.config.hidden)
    data = TrainBatches(corpus, run.data, seed)
    tick = Progress(logger, "teacher: training batch").update
    states.build(teacher.to(choose_device(run)), data, batches, tick)
    epochs, rest = divmod(batches, len(data))  # the last batch of an epoch may be a smaller one
    sequences = epochs * data.sequences.count + rest * data.batch_size
    return Text(sequences * run.data.length, run.data.length, int(states.ends[batches]))


@torch.no_grad()
def teacher_entropy(
    teacher: MaskedLM, val: Dataset, states: TeacherStates, corpus: Corpus
) -> tuple[np.ndarray, float]:
    """T's entropy at each position, and the mean cross-entropy of word frequencies against T."""
    counts = np.bincount(corpus.train, minlength=teacher.config.vocab_size) + 1.0
    unigram = torch.from_numpy(np.log(counts / counts.sum())).float().to(_place(teacher))
    entropies, total = [], 0.0
    for batch in range(len(val)):
        logp = _logp(teacher, states, batch)
        p = logp.exp()
        entropies.append(-(p * logp).sum(-1).cpu())
        total += float(-(p @ unigram).sum())
    entropy = torch.cat(entropies).numpy()
    return entropy, total / len(entropy)


def _place(model: MaskedLM) -> torch.device:
    return next(model.parameters()).device


def _logp(teacher: MaskedLM, states: TeacherStates, batch: int) -> torch.Tensor:
    rows = torch.from_numpy(states[batch]).to(_place(teacher)).float()
    return F.log_softmax(teacher.decode(rows).float(), -1)  # (M, V)


# ---------------------------------------------------------------------------------- one candidate


_OPEN: dict[Path, tuple[Corpus, MaskedLM]] = {}  # of this process: not opened per candidate


def _opened(run: SearchRunConfig, folder: Path) -> tuple[Corpus, MaskedLM]:
    """Corpus and T of the sweep in `folder`."""
    key = folder.resolve()
    if key not in _OPEN:
        _OPEN.clear()
        corpus, teacher = prepare(run, folder)
        RunFolder(folder).check_inputs(corpus.info, hash_teacher(run, corpus), run)
        _OPEN[key] = corpus, teacher
    return _OPEN[key]


def evaluate(run: SearchRunConfig, folder: Path, place: Path) -> dict:
    """Train one candidate for n steps and record its error; what is recorded is returned at once.

    folder: the sweep's; place: the candidate's own folder in it. A failure that is the candidate's
    own (no memory, a loss that is no number) is a record with its reason.
    """
    plan, path = read_plan(folder), place / "point.json"
    if path.exists() and (record := read_record(path, plan))["status"] != CROWDED:
        return record
    own, start = Job(run.arch, run.seed, run.optim.lr), time.monotonic()
    try:
        corpus, teacher = _opened(run, folder)
        val = _val_batches(corpus, run)
        kept = {
            split: TeacherStates(folder / "teacher" / split, teacher.config.hidden)
            for split in (f"train-s{run.seed}", "val")
        }
        job = candidate_settings(run, len(val.chosen))
        label = f"candidate {run.arch}"
        summary = train(job, place, corpus, teacher, label, states=tuple(kept.values()))
        remove_checkpoints(place)  # before there is a record: a recorded candidate is left alone
        losses = candidate_losses(load_masked_lm(place / "model"), teacher, val, kept["val"])
        error = float(losses.mean(dtype=np.float64))
        if not math.isfinite(error):
            raise Diverged("its error is no number")
    except Exception as error:
        if (reason := failure(error)) is None:
            raise
        found = failed_record(plan, own, reason, diverged=isinstance(error, Diverged))
        if not found["diverged"] and run.search.parallel > 1:
            found["status"] = CROWDED
        write_checked(path, found)
        return found
    found = {
        **origin_of(plan, own),
        "lr": job.optim.lr,
        "status": "trained",
        "losses": save_array(place / "losses.npy", losses),
        "error": error,
        "kl_by_step": _kl_by_step(place / "metrics.csv"),
        "mlm_accuracy": summary.get("val/mlm_accuracy"),
        "seconds": summary["seconds"],
        "wall": time.monotonic() - start,
    }
    write_checked(path, found)
    return found


def candidate_settings(run: SearchRunConfig, val_sequences: int) -> TrainConfig:
    """The training of a candidate: n steps, its error also at a quarter and at half of them."""
    n = run.search.n
    accumulate = run.trainer_config.accumulate_grad_batches
    trainer = {**run.trainer, "max_steps": n, "max_epochs": -1, "max_time": None}
    trainer["val_check_interval"] = max(1, n // 4) * accumulate
    lr = width_lr(run.arch.hidden, run.optim.lr, run.search.kappa)
    data = replace(run.data, val_sequences=val_sequences)
    logger = replace(run.logger, job_type="candidate")
    optim = replace(run.optim, lr=lr)
    return run.to_pretraining(data=data, optim=optim, trainer=trainer, logger=logger)


def failure(error: Exception) -> str | None:
    """The reason when it is the candidate's own; None for anything that would hit them all."""
    if isinstance(error, Diverged):
        return str(error)
    return "out of memory" if is_out_of_memory(error) else None


@torch.no_grad()
def candidate_losses(
    model: MaskedLM, teacher: MaskedLM, val: ValBatches, states: TeacherStates
) -> np.ndarray:
    """Cross-entropy against T's output at each held-out position, τ = 1, in nats."""
    device = _place(teacher)
    model.eval().to(device)
    losses = []
    for number in range(len(val)):
        batch = val[number]
        ids, positions = (batch[key].to(device) for key in ("input_ids", "positions"))
        logits = model(ids, positions=positions).float()
        p = _logp(teacher, states, number).exp()
        losses.append(-(p * F.log_softmax(logits, -1)).sum(-1).cpu())
    return torch.cat(losses).numpy()


def _kl_by_step(path: Path) -> dict[str, float]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/kd_loss")]
    return {row["step"]: float(row["val/kd_loss"]) for row in rows}


# ------------------------------------------------------------------------------------ the records


def scale_of(plan: dict, run: SearchRunConfig) -> Scale:
    teacher, search = plan["teacher"], run.search
    exponents = tuple(search.exponents) if search.objective == "w" else (0.0, 0.0, 1.0)
    return Scale(
        teacher["parameters"], teacher["latency"][0], teacher["error"], exponents, search.error
    )


def due_finalists(run: SearchRunConfig, chosen: Selection, found: list[dict]) -> list[Job]:
    """Trainings still to do of the best ones: with further rates, then with further seeds."""
    if chosen.best is None:
        return []
    best = sorted(chosen.errors, key=chosen.rank)[: run.search.finalists]
    have = {(record["xi"], record["seed"], record["base_lr"]) for record in found}
    rates = [Job(xi, run.seed, lr) for xi in best for lr in run.search.lrs]
    further = range(run.seed + 1, run.seed + run.search.seeds)
    rate = {xi: best_record(found, xi, run)["base_lr"] for xi in best}
    seeds = [Job(xi, seed, rate[xi]) for seed in further for xi in best]
    for stage in (rates, seeds):
        due = [job for job in stage if (job.xi, job.seed, job.lr) not in have]
        if due:
            return due
    return []


def selection(
    plan: dict, run: SearchRunConfig, found: list[dict], paired: Paired | None = None
) -> Selection:
    """The selection with these records; `paired` tells which contradictions are beyond chance."""
    beyond_chance = {"significant": paired.worse} if paired else {}
    chosen = Selection(
        {Arch.from_json(p["xi"]): (p["parameters"], p["latency"][0]) for p in plan["points"]},
        scale_of(plan, run),
        epsilon=run.search.epsilon,
        refine=run.search.refine,
        monotone=run.search.assume == "monotone",
        max_params=run.search.max_params,
        max_latency=run.search.max_latency_ms,
        **beyond_chance,
    )
    for record in found:
        if record["seed"] != run.seed or record["xi"] not in chosen.points:
            continue
        if record["status"] == "trained":
            chosen.tell(record["xi"], record["error"])
        else:
            chosen.fail(record["xi"], record["reason"], record["diverged"])
    return chosen
