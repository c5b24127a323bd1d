"""A run folder: whose it is, whether it is finished, and that one process at a time works in it.

Nothing heavy is imported, so that a finished run says so at once.
"""

import fcntl
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bort.cli import clock, python
from bort.config import Train, settings
from bort.errors import BortError
from bort.files import replacing, write_json
from bort.foreign import read_json, read_yaml, short
from bort.identity import check_models, local_model, model_digest, named_models
from bort.wording import decimal


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


RESTORE = "restore it or remove the run"
NUMBERS = ("parameters", "steps", "tokens", "seconds", "tokens_per_s", "unigram_ce", "lr", "w")


def check_numbers(path: Path, summary: dict) -> None:
    """Raise BortError for a result in a summary that is neither a number nor null."""
    for key, value in summary.items():
        is_score = re.match(r"(val|test|eval)\w*/", key) is not None
        is_number = type(value) in (int, float) and math.isfinite(value)
        if (key in NUMBERS or is_score) and value is not None and not is_number:
            raise BortError(f"{path}: {key} is {short(repr(value), 40)}, no number; {RESTORE}")


def done(run: Train, folder: Path, say: Callable[[str], None]) -> dict | None:
    """The summary when `folder` holds this run, finished; None when there is something to do.

    Raises BortError when `folder` holds something else.
    """
    check_folder(folder, run)
    if not run.resume or (summary := finished(folder)) is None:
        return None
    _check_models(folder, run)
    say(f"{folder} is finished; name= starts another run, resume=false this one again")
    return summary


def check_folder(folder: Path, run: Train) -> None:
    """Raises BortError when `folder` holds a run with other settings, naming up to three."""
    path = folder / "settings.json"
    if not run.resume or not path.is_file():
        # hidden ones are ours: a kill may come before settings.json is written
        if folder.is_dir() and not path.is_file() and any(folder.glob("[!.]*")):
            raise BortError(f"{folder} holds files but no run of bort; use another name=")
        return
    # through JSON, so that what is compared went the same way as what was stored
    now = json.loads(json.dumps(settings(run), default=str))
    then = read_json(path, RESTORE)
    other = [k for k in {**then, **now} if then.get(k) != now.get(k)]
    if other:
        changes = ", ".join(f"{k}={then.get(k)}, now {now.get(k)}" for k in sorted(other)[:3])
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        raise BortError(
            f"{folder} holds a run with other settings ({changes}{more}); use the same settings, "
            "another name=, or resume=false to start it again"
        )


def open_folder(folder: Path, run: Train, record: dict | None) -> None:
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    if not run.resume and folder.is_dir():
        for item in folder.iterdir():
            if item.name != ".lock":
                shutil.rmtree(item) if item.is_dir() else item.unlink()
    if not (folder / "settings.json").exists():
        for name, text in (record or {}).items():
            with replacing(folder / ".hydra" / name) as file:
                file.write(text.encode())
        write_json(folder / "settings.json", settings(run))


def check_corpus(folder: Path, info: dict, models: dict[str, str] | None = None) -> None:
    """Raises BortError when a run would go on with other text, another tokenizer or another model.

    info: its `digest`, and more that is worth a note. models: digests of the models that the run
    reads, by the setting that names them.
    """
    path, now = folder / "corpus.json", info["digest"]
    if not path.exists():
        keys = ("digest", "source", "packages", "train_tokens", "val_tokens", "vocab_size")
        notes = {key: info[key] for key in keys if key in info}
        write_json(path, notes | {"models": models or {}})
        return
    start = read_json(path, RESTORE)
    if (then := start.get("digest")) != now:
        raise BortError(
            f"{folder} was started on other text (corpus {then}, now {now}); restore the text, use "
            "another name=, or resume=false to start it again"
        )
    check_models(_models(path, start), models or {}, folder)


def _models(path: Path, start: dict) -> dict[str, str]:
    """Digests of the models that a run began with, by setting."""
    models = start.get("models", {})
    if not isinstance(models, dict):
        raise BortError(f"{path}: models is {short(repr(models), 40)}, no table; {RESTORE}")
    return models


def _check_models(folder: Path, run: Train) -> None:
    """Raises BortError when a finished run's models are other ones now; a folder may be gone."""
    path = folder / "corpus.json"
    then = _models(path, read_json(path, RESTORE)) if path.is_file() else {}
    places = {key: local_model(name) for key, name in named_models(run).items() if key in then}
    check_models(then, {k: model_digest(place) for k, place in places.items() if place}, folder)


def read_overrides(folder: Path) -> list[str] | None:
    """The words of the command line that started a run, as they stood there; None if unknown."""
    path = folder / ".hydra" / "overrides.yaml"
    if not path.is_file():
        return None
    words = read_yaml(path)
    if not isinstance(words, list):
        raise BortError(f"{path} is no list of settings; restore it")
    return [str(word) for word in words]


@contextmanager
def locked(folder: Path, wait: bool, say: Callable[[str], None]) -> Iterator[int | None]:
    """One process works in a folder; the lock goes with the process, however it ends.

    Gives the file descriptor that holds the lock, for processes that shall hold it, too.

    wait: for another process's end. Raises BortError when there is one and wait is false, or when
    the folder cannot be written.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        yield  # the other processes of DDP work under the first one's lock
        return
    path, start = folder / ".lock", time.monotonic()
    waited = False
    while True:
        file = _open_lock(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if not wait:
                file.close()
                raise BortError(
                    f"another process is training in {folder}; use another name= or wait for it"
                ) from None
            if not waited:
                say(f"waiting for the process that trains in {folder}…")
            waited = True
            fcntl.flock(file, fcntl.LOCK_EX)
        # Whoever had the lock removed the file with it: a lock on that one keeps nobody out.
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()
    if waited:
        say(f"waited {clock(time.monotonic() - start)}")
    with file:
        try:
            yield file.fileno()
        finally:
            path.unlink(missing_ok=True)
            _remove_unstarted(folder)


def _open_lock(path: Path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise BortError(f"{path.parent} cannot be written: {error.strerror}") from error


def _remove_unstarted(folder: Path) -> None:
    """Leave nothing behind of a run that failed before its first step."""
    started = ("metrics.csv", "checkpoints", "summary.json", "teacher", "default", "stages.json")
    if not any((folder / name).exists() for name in started):
        shutil.rmtree(folder, ignore_errors=True)
        for parent in list(folder.parents)[:2]:
            try:
                parent.rmdir()  # only when it is empty
            except OSError:
                break


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
        return "no validation"
    return (
        f"val {summary['val/loss']:.2f} nats ({summary['val/mlm_accuracy']:.1%} of masked words; "
        f"unigram {summary['unigram_ce']:.2f}, {summary['unigram_accuracy']:.1%})"
    )


def doubt(summary: dict) -> str | None:
    """A warning when a model knows little more than how frequent words are.

    Of a task, what its scores leave in doubt (`bort.scoring.doubt`).
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


def finish(run: Train, folder: Path, summary: dict, choice: str, say: Callable) -> None:
    """The last lines of a run: the result, where everything is, and what to try next."""
    if run.job == "pretrain":
        say(f"{choice}: {results(summary)} after {clock(summary['seconds'])} of training")
        if summary.get("val/loss") is not None and (warning := doubt(summary)):
            say(f"warning: {warning}")
        say(f"  model     {folder}/model   (AutoModelForMaskedLM.from_pretrained opens it)")
        say(f"  metrics   {folder}/metrics.csv, summary.json")
        if (folder / "samples.txt").exists():
            say(f"  samples   {folder}/samples.txt")
    following = NEXT.get(choice, NEXT["kd_pretrain"])
    if run.fits_task:
        following = _finish_task(run, folder, summary, choice, say)
    if (folder / "report.html").exists():
        say(f"  report    {folder}/report.html")
    if run.logger.name == "wandb" and (folder / "wandb").is_dir():
        say(f"  wandb     wandb sync {folder}/wandb/offline-run-*   (when it was offline)")
    text = ""
    if run.data.source == "text":
        plain = re.fullmatch(r"[\w./:+-]+", run.data.path)  # others would need two kinds of quotes
        text = f" data=text data.path={run.data.path if plain else 'YOUR_TEXT'}"
    known = {"folder": folder, "text": text, "kd": summary.get("kd/folder")}
    if following:
        say(f"  next      {python()} {following.format(**known)}")


def _finish_task(run: Train, folder: Path, summary: dict, choice: str, say: Callable) -> str | None:
    """The last lines of a fine-tuning; returns what to do next."""
    named = {k: v for k, v in summary.items() if re.match(r"(val|test)\w*/", k)}
    scores = [f"{k} {decimal(v)}" for k, v in named.items() if v is None or isinstance(v, float)]
    by = f" (the best epoch by {summary['metric']})" if "metric" in summary else ""
    say(f"{choice}: {run.task}: {', '.join(scores) or 'no labels, so no scores'}{by}")
    if warning := doubt(summary):
        say(f"warning: {warning}")
    following = None
    if (folder / "model").is_dir():  # a diagnostic set has none of its own
        config = read_json(folder / "model" / "config.json")
        kind = str((config.get("architectures") or [""])[0]).partition("For")[2]
        opened = f"AutoModelFor{kind} opens it" if kind else "for bort: it takes marked words"
        say(f"  model     {folder}/model   ({opened})")
        if kind == "SequenceClassification":
            pair = " pair='…'" if config.get("bort_texts") == 2 else ""
            following = f"-m bort.predict model={{folder}} text='…'{pair}"
    say(f"  answers   {folder}/predictions/")
    return following
