"""A run folder: whose it is, whether it is finished, and that one process at a time works in it.

Nothing heavy is imported, so that a finished run says so at once.
"""

import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from bort.config.fingerprint import fingerprint, flatten_settings
from bort.config.train import TrainConfig, named_models
from bort.console import clock, counted, decimal, typed
from bort.errors import BortError, shorten
from bort.files import locks, ownership, run_files
from bort.files.untrusted import read_json, read_yaml
from bort.files.writing import replacing, write_json
from bort.models.identity import check_models, digest_folder, find_local_model

logger = logging.getLogger(__name__)

LOCK = ".lock"  # its file in a run folder


def finished(folder: Path) -> dict | None:
    """The summary of a finished run, or None, also where it cannot be read: it is made again then.

    Raises BortError for one whose numbers are none.
    """
    path = folder / "summary.json"
    try:
        summary = read_json(path) if path.is_file() else None
    except BortError:
        return None
    if summary is not None:
        check_numbers(path, summary)
    return summary


def take_finished(folder: Path) -> dict | None:
    """The summary of a finished run; None of another.

    A process that was killed after its summary was written may have left its lock and temporary
    files, and nobody works in this folder again: they go here.
    """
    if (summary := finished(folder)) is not None:
        ownership.settle(folder)
        locks.remove_stale(folder / LOCK)
    return summary


RESTORE = "restore it or remove the run"
NUMBERS = ("parameters", "steps", "tokens", "seconds", "tokens_per_s", "unigram_ce", "lr", "w")


def check_numbers(path: Path, summary: dict) -> None:
    """Raise BortError for a result in a summary that is neither a number nor null."""
    for key, value in summary.items():
        is_score = re.match(r"(val|test|eval)\w*/", key) is not None
        is_number = type(value) in (int, float) and abs(value) <= sys.float_info.max
        if (key in NUMBERS or is_score) and value is not None and not is_number:
            raise BortError(f"{path}: {key} is {shorten(repr(value), 40)}, no number; {RESTORE}")


def done(run: TrainConfig, folder: Path) -> dict | None:
    """The summary when `folder` holds this run, finished; None when there is something to do.

    That is also to read the data again, where their files are not as they were: `check_corpus`
    decides then. Raises BortError when `folder` holds something else.
    """
    check_folder(folder, run)
    if not run.resume or finished(folder) is None or _touched(folder, run):
        return None
    summary = take_finished(folder)
    _check_models(folder, run)
    logger.info(f"{folder} is finished; name= starts another run, resume=false this one again")
    return summary


def check_folder(folder: Path, run: TrainConfig) -> None:
    """Raises BortError when `folder` holds a run with other settings, naming up to three.

    Also when it holds something else, which no run may replace, and when starting again would
    remove what the run reads.
    """
    then = run_files.run_settings(folder)
    if then is None:
        if run_files.foreign_names(folder):
            raise BortError(f"{folder} holds files but no run of bort; use another name=")
        return
    if not run.resume:
        check_sources(folder, run)
        return
    # through JSON, so that what is compared went the same way as what was stored
    now = json.loads(json.dumps(flatten_settings(run), default=str))
    other = [k for k in {**then, **now} if then.get(k) != now.get(k)]
    if other:
        changes = ", ".join(f"{k}={then.get(k)}, now {now.get(k)}" for k in sorted(other)[:3])
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        raise BortError(
            f"{folder} holds a run with other settings ({changes}{more}); use the same settings, "
            "another name=, or resume=false to start it again"
        )


def check_sources(folder: Path, run: TrainConfig) -> None:
    """Raises BortError when a run reads what resume=false would remove from `folder`."""
    data = run.data
    sources = {"model": run.model, "teacher.name": run.teacher.name, "arch_file": run.arch_file}
    sources |= {"agora.teacher": run.agora.teacher, "agora.mlm": run.agora.mlm}
    sources |= {"data.tokenizer": data.tokenizer, "data.path": data.path}
    for key, source in sources.items():
        path = Path(source or ".").expanduser()
        if source and path.exists() and path.resolve().is_relative_to(folder.resolve()):
            raise BortError(
                f"{key}={source} lies in {folder}, which resume=false would clear; use another "
                "name="
            )


def open_folder(folder: Path, run: TrainConfig, record: dict | None) -> None:
    """Write down what runs in `folder`; with resume=false, what a run has made there goes first."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    if not run.resume:
        run_files.clear_run(folder)
    if not (folder / "settings.json").exists():  # first: by it, all else is known as bort's
        write_json(folder / "settings.json", run_files.run_record(flatten_settings(run)))
    for name, text in (record or {}).items():
        if not (folder / ".hydra" / name).exists():
            with replacing(folder / ".hydra" / name) as file:
                file.write(text.encode())


def check_corpus(
    folder: Path, info: dict, models: dict[str, str] | None = None, run: TrainConfig | None = None
) -> None:
    """Raises BortError when a run has, or had, other text, another tokenizer or another model.

    info: its `digest`, and more that is worth a note. models: digests of the models that the run
    reads, by the setting that names them. run: so that the state of its data files is noted, by
    which `done` knows at once that nothing has changed.
    """
    path, now = folder / "corpus.json", info["digest"]
    state = {} if run is None or (files := data_state(run)) is None else {"files": files}
    if not path.exists():
        keys = ("digest", "source", "packages", "train_tokens", "val_tokens", "vocab_size")
        notes = {key: info[key] for key in keys if key in info}
        write_json(path, notes | {"models": models or {}} | state)
        return
    check_text(folder, now)
    start = read_json(path, RESTORE)
    check_models(_models(path, start), models or {}, folder)
    if start | state != start:
        write_json(path, start | state)


def check_text(folder: Path, now: str) -> None:
    """Raises BortError when the run in `folder` began with text of another digest than `now`."""
    path = folder / "corpus.json"
    if path.exists() and (then := read_json(path, RESTORE).get("digest")) != now:
        raise BortError(
            f"{folder} was started on other text (corpus {then}, now {now}); restore the text, use "
            "another name=, or resume=false to start it again"
        )


def started_models(folder: Path) -> dict[str, str]:
    """Digests of the models that the run in `folder` began with; none before it began."""
    path = folder / "corpus.json"
    return _models(path, read_json(path, RESTORE)) if path.is_file() else {}


def _models(path: Path, start: dict) -> dict[str, str]:
    """Digests of the models that a run began with, by setting."""
    models = start.get("models", {})
    if not isinstance(models, dict):
        raise BortError(f"{path}: models is {shorten(repr(models), 40)}, no table; {RESTORE}")
    return models


def data_state(run: TrainConfig) -> str | None:
    """16 digits of the names, sizes and times of the user's data files.

    None where there are none, or where one is missing: then nothing can be compared.
    """
    data = run.data
    if run.fits_task:
        named = [data.train, data.val, data.test] if run.task == "custom" else [data.root]
    else:
        named = [data.path]
    paths = [Path(name).expanduser() for name in named if name]
    files: list[tuple[str, int, int]] = []
    try:
        for path in paths:
            inside = [Path(place, name) for place, _, names in os.walk(path) for name in names]
            for file in sorted(inside) if path.is_dir() else [path]:
                state = file.stat()
                files.append((str(file.absolute()), state.st_size, state.st_mtime_ns))
    except OSError:
        return None
    return fingerprint({"files": files}) if files else None


def _touched(folder: Path, run: TrainConfig) -> bool:
    """Whether a data file was changed since the run last looked, perhaps to the same content."""
    path = folder / "corpus.json"
    recorded = read_json(path, RESTORE).get("files") if path.is_file() else None
    state = data_state(run)
    return recorded is not None and state is not None and state != recorded


def _check_models(folder: Path, run: TrainConfig) -> None:
    """Raises BortError when a finished run's models are other ones now; a folder may be gone."""
    then = started_models(folder)
    places = {key: find_local_model(name) for key, name in named_models(run).items() if key in then}
    check_models(then, {k: digest_folder(place) for k, place in places.items() if place}, folder)


def read_overrides(folder: Path) -> list[str] | None:
    """The words of the command line that started a run, as they stood there; None if unknown."""
    path = folder / ".hydra" / "overrides.yaml"
    if not path.is_file():
        return None
    words = read_yaml(path)
    if not isinstance(words, list):
        raise BortError(f"{path} is no list of settings; restore it")
    return [str(word) for word in words]


def reserve_stamp(cfg: DictConfig, output: Callable[[], Path]) -> bool:
    """Where a run is named by the time of day: a name that no run of the same second has.

    cfg: has `name` and `dry_run`, and gets the name with a suffix if the folder is taken; output:
    gives the folder that belongs to it. `locks.release` removes the folder if nothing is written.
    Returns whether there was anything to do.
    """
    stamp = OmegaConf.to_container(OmegaConf.masked_copy(cfg, "name"), resolve=False)["name"]
    if "${now:" not in str(stamp) or cfg.dry_run or "LOCAL_RANK" in os.environ:
        return False
    number, name = 1, cfg.name
    cfg.name = name
    while not locks.reserve(output()):
        number += 1
        cfg.name = f"{name}-{number}"
    return True


@contextmanager
def locked(folder: Path, wait: bool) -> Iterator[int | None]:
    """One process works in a folder; the lock goes with the process, however it ends.

    Gives the file descriptor that holds the lock, for processes that shall hold it, too.

    wait: for another process's end. Raises BortError when there is one and wait is false, or when
    the folder cannot be written.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        yield  # the other processes of DDP work under the first one's lock
        return
    created = locks.create_folder(folder)
    busy = f"another process is training in {folder}; use another name= or wait for it"
    start, waited = time.monotonic(), False

    def waiting() -> None:
        nonlocal waited
        waited = True
        logger.info(f"waiting for the process that trains in {folder}…")

    try:
        with locks.lock(folder / LOCK, busy, waiting if wait else None) as handle:
            if waited:
                logger.info(f"waited {clock(time.monotonic() - start)}")
            for path in (folder, *(folder / name for name in WRITTEN_INTO)):
                ownership.settle(path)
            try:
                yield handle
            finally:
                _remove_unstarted(folder)
    finally:
        ownership.remove_empty(created)


WRITTEN_INTO = ("checkpoints", "predictions", ".hydra", "teacher")


def _remove_unstarted(folder: Path) -> None:
    """Leave nothing behind of a run that failed before its first step."""
    started = ("metrics.csv", "checkpoints", "summary.json", "teacher", "default", "stages.json")
    if not any((folder / name).exists() for name in (*started, *ARM_FOLDERS)):
        run_files.clear_run(folder)


ARM_FOLDERS = ("kd", "mlm")  # of a comparison


FAILED = ".failed-"  # in the folder of a sweep, with the name of a job that did not end well


def note_failure(folder: Path) -> None:
    """Leave a note for the end of a sweep that its job in `folder` did not end well.

    A job may run in another process, or on another machine, than what ends the sweep.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        (folder.parent / f"{FAILED}{folder.name}").touch()
    except OSError:
        return  # then its line on the screen is all that is known of it


def take_failures(folder: Path) -> set[str]:
    """The names of the jobs of a sweep that did not end well; their notes are removed."""
    notes = list(folder.glob(f"{FAILED}*"))
    for note in notes:
        note.unlink(missing_ok=True)
    return {note.name.removeprefix(FAILED) for note in notes}


def results(summary: dict) -> str:
    """`val 3.80 nats (38.4% of masked words; unigram 6.79, 5.9%)`."""
    if summary.get("val/loss") is None:
        reason = summary.get("no_validation")
        return "no validation" + (f" ({reason})" if reason else "")
    return (
        f"val {summary['val/loss']:.2f} nats ({summary['val/mlm_accuracy']:.1%} of masked words; "
        f"unigram {summary['unigram_ce']:.2f}, {summary['unigram_accuracy']:.1%})"
    )


def doubt(summary: dict) -> str | None:
    """A warning when a model knows little more than how frequent words are.

    Of a task, what its scores leave in doubt (`bort.tasks.metrics.doubt`).
    """
    if "task" in summary:
        line = summary.get("doubt")
        return line if isinstance(line, str) else None
    below = (summary.get("unigram_ce") or 0) - (summary.get("val/loss") or -math.inf)
    if below >= NEAR:
        return None
    where = f"{below:.2f} nats better than" if below > 0 else "no better than"
    return f"{where} word frequencies alone: more steps, another optim.lr or more text is needed"


NEAR = 0.3  # nats below the unigram model from which on a model has learnt of the context
NEXT = {
    "teacher_pretrain": "train.py experiment=kd_pretrain teacher.name={folder}",
    "mlm_pretrain": "train.py experiment=kd_pretrain{text}",
    "kd_pretrain": "train.py experiment=finetune model={folder}",
    "kd_vs_mlm": "train.py experiment=finetune model={kd}",
}


def finish(run: TrainConfig, folder: Path, summary: dict, choice: str) -> None:
    """The last lines of a run: the result, where everything is, and what to try next."""
    if run.job == "pretrain":
        logger.info(f"{choice}: {results(summary)} after {clock(summary['seconds'])} of training")
        if summary.get("val/loss") is not None and (warning := doubt(summary)):
            logger.warning(warning)
        logger.info(f"  model     {folder}/model   (AutoModelForMaskedLM.from_pretrained opens it)")
        logger.info(f"  metrics   {folder}/metrics.csv, summary.json")
        if (folder / "samples.txt").exists():
            logger.info(f"  samples   {folder}/samples.txt")
    following = NEXT.get(choice, NEXT["kd_pretrain"])
    if run.fits_task:
        following = _finish_task(run, folder, summary, choice)
    if (folder / "report.html").exists():
        logger.info(f"  report    {folder}/report.html")
    if run.logger.name == "wandb" and (folder / "wandb").is_dir():
        logger.info(f"  wandb     wandb sync {folder}/wandb/offline-run-*   (when it was offline)")
    text = ""
    if run.data.source == "text":
        plain = re.fullmatch(r"[\w./:+-]+", run.data.path)  # others would need two kinds of quotes
        text = f" data=text data.path={run.data.path if plain else 'YOUR_TEXT'}"
    known = {"folder": folder, "text": text, "kd": summary.get("kd/folder")}
    if following:
        logger.info(f"  next      {typed(following.format(**known))}")


def _finish_task(run: TrainConfig, folder: Path, summary: dict, choice: str) -> str | None:
    """The last lines of a fine-tuning; returns what to do next."""
    named = {k: v for k, v in summary.items() if re.match(r"(val|test)\w*/", k)}
    scores = [f"{k} {decimal(v)}" for k, v in named.items() if v is None or isinstance(v, float)]
    rows = {k: v for k, v in summary.items() if k.startswith("rows/") and isinstance(v, int)}
    if rows and scores:  # what a score is worth
        counts = (f"{counted(v, 'row')} of {k.removeprefix('rows/')}" for k, v in rows.items())
        scores[-1] += f"; {', '.join(counts)}"
    by = f" (the best epoch by {summary['metric']})" if "metric" in summary else ""
    logger.info(f"{choice}: {run.task}: {', '.join(scores) or 'no labels, so no scores'}{by}")
    if warning := doubt(summary):
        logger.warning(warning)
    following = None
    if (folder / "model").is_dir():  # a diagnostic set has none of its own
        config = read_json(folder / "model" / "config.json")
        kind = str((config.get("architectures") or [""])[0]).partition("For")[2]
        opened = f"AutoModelFor{kind} opens it" if kind else "for bort: it takes marked words"
        logger.info(f"  model     {folder}/model   ({opened})")
        if kind == "SequenceClassification":
            pair = " pair='…'" if config.get("bort_texts") == 2 else ""
            following = f"-m bort.predict model={{folder}} text='…'{pair}"
    logger.info(f"  answers   {folder}/predictions/")
    return following
