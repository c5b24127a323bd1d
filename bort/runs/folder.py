"""RunFolder: the names of a run's files, its lock, what it records and how that is read back.

Nothing heavy is imported, so that a finished run says so at once.
"""

import json
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bort.config.data import BPE_SIZE
from bort.config.fingerprint import flatten_settings
from bort.config.train import TrainConfig
from bort.config.trainer import AUTO, FLOAT32
from bort.console import clock
from bort.errors import BortError, shorten
from bort.files import locks, ownership, run_files
from bort.files.untrusted import read_json, read_settings, read_yaml
from bort.files.writing import replace_file, write_json
from bort.models.identity import check_models, digest_folder, find_local_model
from bort.runs.differences import check_equal
from bort.runs.inputs import digest_data_files
from bort.runs.summary import RESTORE, RunSummary

logger = logging.getLogger(__name__)

LOCK = ".lock"
ARM_FOLDERS = ("kd", "mlm")  # of a comparison
# A folder that holds one of these has more than a beginning of a run.
STARTED = (run_files.METRICS, run_files.CHECKPOINTS, run_files.SUMMARY, run_files.TEACHER)
STARTED += ("default", run_files.STAGES, *ARM_FOLDERS)
# Folders in which a killed process may have left temporary files.
WRITTEN_INTO = (
    run_files.CHECKPOINTS,
    run_files.PREDICTIONS,
    run_files.HYDRA,
    run_files.TEACHER,
)
GONE_SETTINGS = (("agora", "training"),)  # older records hold these settings, which no longer exist
PRECISION, VOCAB_SIZE = "trainer.precision", "data.vocab_size"
# Settings that older records lack, with the value that those runs have.
ADDED_SETTINGS: dict[str, Any] = {
    PRECISION: FLOAT32,
    "distill.w_hidden": 0.0,
    "distill.w_relation": 0.0,
    "distill.relation_layer": -1,
    "distill.relation_heads": None,
    "distill.states_gb": 4.0,
    "distill.control": False,
    "init_layers": None,
    "data.packing": True,
    "data.metric": None,
    "optim.class_weights": None,
    "search.max_mb": None,
    "search.proxy": "words",
    "search.halving": False,
}
SHARE, NO_LIMIT = "search.max_latency_share", 1.0  # of T's latency, than which all are faster
INPUT_FACTS = ("digest", "source", "packages", "train_tokens", "val_tokens", "full_val_tokens")
INPUT_FACTS += ("vocab_size",)


def add_missing_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the flat settings of a run with those that the version which recorded it lacked."""
    budgets = ("search.max_params", "search.max_latency_ms")
    has_budget = any(settings.get(key) is not None for key in budgets)
    is_unlimited = settings.get("search.objective") == "error" and not has_budget
    return ADDED_SETTINGS | {SHARE: NO_LIMIT if is_unlimited else None} | settings


def _state_precision(text: str, run: TrainConfig) -> str:
    """Return the YAML of a run's configuration with the precision that `auto` has become."""
    pattern = rf"^(trainer:\n(?: .*\n)*?  precision: ){AUTO}$"
    return re.sub(pattern, rf"\g<1>{run.trainer_config.precision}", text, flags=re.MULTILINE)


class RunFolder(os.PathLike):
    """The folder of one run; `folder / name` is a file that only one kind of job has.

    A process takes the folder with `lock`, writes down with `begin` what it is going to run there,
    and with `check_inputs` on which data and models. The summary is written last: a folder that has
    one holds a finished run.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    # ------------------------------------------------------------------------------- its files

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.name

    @property
    def settings_file(self) -> Path:
        """The settings and the version of bort, which are written first."""
        return self.path / run_files.SETTINGS

    @property
    def inputs_file(self) -> Path:
        """The digests of the data and of the models that the run reads."""
        return self.path / run_files.INPUTS

    @property
    def summary_file(self) -> Path:
        """The results, which are written last."""
        return self.path / run_files.SUMMARY

    @property
    def failure_file(self) -> Path:
        """Why a training of a comparison has no results."""
        return self.path / run_files.FAILURE

    @property
    def metrics(self) -> Path:
        """The table of what was logged, by step."""
        return self.path / run_files.METRICS

    @property
    def performance(self) -> Path:
        """The table of what was logged and depends on the speed of the machine, by step."""
        return self.path / run_files.PERFORMANCE

    @property
    def samples(self) -> Path:
        """Some predictions of the last validation, as text."""
        return self.path / run_files.SAMPLES

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.path / run_files.REPORT

    @property
    def optimum(self) -> Path:
        """The architecture that a search or a sweep has chosen."""
        return self.path / run_files.OPTIMUM

    @property
    def optimum_w(self) -> Path:
        """The architecture with the largest W of a search or a sweep."""
        return self.path / run_files.OPTIMUM_W

    @property
    def model(self) -> Path:
        """The folder of the trained model."""
        return self.path / run_files.MODEL

    @property
    def checkpoints(self) -> Path:
        """The folder of a training's checkpoints."""
        return self.path / run_files.CHECKPOINTS

    @property
    def teacher(self) -> Path:
        """The folder of Agora's teacher, or of what a search keeps of its teacher's outputs."""
        return self.path / run_files.TEACHER

    @property
    def config_file(self) -> Path:
        """The composed settings, as Hydra would write them."""
        return self.path / run_files.HYDRA / run_files.HYDRA_CONFIG

    @property
    def overrides_file(self) -> Path:
        """The words of the command line that started the run."""
        return self.path / run_files.HYDRA / run_files.HYDRA_OVERRIDES

    @property
    def predictions(self) -> Path:
        """The folder of a task's answers and submission files."""
        return self.path / run_files.PREDICTIONS

    # ------------------------------------------------------------------------------- the lock

    @contextmanager
    def lock(self, wait: bool = False) -> Iterator[int | None]:
        """Let one process work in the folder; the lock ends with the process, however it ends.

        Yields the file descriptor that holds the lock, for child processes that shall hold it too.
        wait: wait for the end of another process. Raises BortError when there is one and `wait` is
        false, or when the folder cannot be written.
        """
        if os.environ.get("LOCAL_RANK", "0") != "0":
            yield  # the other processes of DDP work under the first one's lock
            return
        created = locks.create_folder(self.path)
        busy = f"another process is training in {self}; use another name= or wait for it"
        start, has_waited = time.monotonic(), False

        def report_waiting() -> None:
            nonlocal has_waited
            has_waited = True
            logger.info(f"waiting for the process that trains in {self}…")

        try:
            with locks.lock(self.path / LOCK, busy, report_waiting if wait else None) as handle:
                if has_waited:
                    logger.info(f"waited {clock(time.monotonic() - start)}")
                for path in (self.path, *(self.path / name for name in WRITTEN_INTO)):
                    ownership.settle(path)
                try:
                    yield handle
                finally:
                    self._remove_unstarted()
        finally:
            ownership.remove_empty(created)

    def _remove_unstarted(self) -> None:
        """Leave nothing behind of a run that failed before its first step."""
        if not any((self.path / name).exists() for name in STARTED):
            self.clear()

    def clear(self) -> None:
        """Remove what the run made here; files of the user stay."""
        run_files.clear_run(self.path)

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints of a finished training, which no longer needs them."""
        run_files.remove_checkpoints(self.path)

    def remove_model(self) -> None:
        """Remove the model, which is not the best one."""
        run_files.remove_model(self.path)

    # ------------------------------------------------------------------------------- settings

    def begin(
        self, run: TrainConfig, record: dict[str, str] | None, threads: int | None = None
    ) -> None:
        """Write down what runs here; with resume=false, remove what an earlier run made first.

        record: file name → text for the folder `.hydra`. threads: the number that it computes with.
        """
        if os.environ.get("LOCAL_RANK", "0") != "0":
            return
        if not run.resume:
            self.clear()
        if not self.settings_file.exists():  # first: by it, all else is known as bort's
            content = run_files.make_run_record(flatten_settings(run), threads)
            write_json(self.settings_file, content)
        for name, text in (record or {}).items():
            if not (self.path / run_files.HYDRA / name).exists():
                if name == "config.yaml":
                    text = _state_precision(text, run)
                with replace_file(self.path / run_files.HYDRA / name) as file:
                    file.write(text.encode())

    def read_settings(self) -> dict[str, Any] | None:
        """Return the flat settings of the run here; None where there is no run of bort."""
        return run_files.read_run_settings(self.path)

    @property
    def threads(self) -> int | None:
        """The number of threads of the run here; 0 if it is unknown, None where there is no run."""
        return run_files.read_run_threads(self.path)

    @property
    def precision(self) -> str | None:
        """The `trainer.precision` of the run here; None where there is no run.

        A run of an older version that has none is one in float32.
        """
        settings = self.read_settings()
        return None if settings is None else str(settings.get(PRECISION, FLOAT32))

    def read_config(self) -> dict[str, Any]:
        """Return the settings that `.hydra/config.yaml` records, but for keys that are gone since.

        Raises BortError for a file that is missing or damaged.
        """
        config = read_settings(self.config_file)
        for group, key in GONE_SETTINGS:
            if isinstance(config.get(group), dict):
                config[group].pop(key, None)
        return config

    def read_overrides(self) -> list[str] | None:
        """Return the words of the command line that started the run; None if they are unknown."""
        path = self.overrides_file
        if not path.is_file():
            return None
        words = read_yaml(path)
        if not isinstance(words, list):
            raise BortError(f"{path} is no list of settings; restore it")
        return [str(word) for word in words]

    def check_settings(self, run: TrainConfig) -> None:
        """Raise BortError when a run with other settings is here, naming up to three of them.

        Raise it, too, when the folder holds something else, which no run may replace, and when
        starting again would remove what the run reads.
        """
        then = self.read_settings()
        if then is None:
            if run_files.list_foreign_names(self.path):
                raise BortError(f"{self} holds files but no run of bort; use another name=")
            return
        if not run.resume:
            self._check_sources(run)
            return
        # through JSON, so that what is compared went the same way as what was stored
        now = json.loads(json.dumps(flatten_settings(run.settle_as(then)), default=str))
        now.setdefault(PRECISION, FLOAT32)
        added = add_missing_settings(then).items()
        then = {key: value for key, value in added if key in now} | then
        if now[PRECISION] == AUTO:  # which is whatever the run has
            now[PRECISION] = then[PRECISION]
        if now[VOCAB_SIZE] is None and then.get(VOCAB_SIZE) == BPE_SIZE:
            now[VOCAB_SIZE] = BPE_SIZE  # older versions wrote it down where nobody had given it
        check_equal(self, then, now)

    def _check_sources(self, run: TrainConfig) -> None:
        """Raise BortError when a run reads what resume=false would remove from the folder."""
        data = run.data
        sources = {"model": run.model, "teacher.name": run.teacher.name, "arch_file": run.arch_file}
        sources |= {"agora.teacher": run.agora.teacher, "agora.mlm": run.agora.mlm}
        sources |= {"data.tokenizer": data.tokenizer, "data.path": data.path}
        for key, source in sources.items():
            path = Path(source or ".").expanduser()
            if source and path.exists() and path.resolve().is_relative_to(self.path.resolve()):
                raise BortError(
                    f"{key}={source} lies in {self}, which resume=false would clear; use another "
                    "name="
                )

    # ------------------------------------------------------------------------------- inputs

    def check_inputs(
        self,
        facts: dict[str, Any],
        models: dict[str, str] | None = None,
        run: TrainConfig | None = None,
    ) -> None:
        """Raise BortError when the run began with other data or another model; note them first.

        facts: the `digest` of the data, and more that is worth a note. models: the digests of the
        models that the run reads, by the setting that names each. run: given so that the state of
        its data files is noted, by which `find_result` knows at once that nothing has changed.
        """
        state = {} if run is None or (files := digest_data_files(run)) is None else {"files": files}
        if not self.inputs_file.exists():
            notes = {key: facts[key] for key in INPUT_FACTS if key in facts}
            write_json(self.inputs_file, notes | {"models": models or {}} | state)
            return
        self.check_data(facts["digest"])
        start = self._read_inputs()
        check_models(self.read_models(), models or {}, self.path)
        if start | state != start:
            write_json(self.inputs_file, start | state)

    def check_data(self, digest: str) -> None:
        """Raise BortError when the run here began with data of another digest."""
        if self.inputs_file.exists() and (then := self._read_inputs().get("digest")) != digest:
            raise BortError(
                f"{self} was started on other text (corpus {then}, now {digest}); restore the "
                "text, use another name=, or resume=false to start it again"
            )

    def read_models(self) -> dict[str, str]:
        """Return the digests of the models that the run began with; none before it began."""
        models = self._read_inputs().get("models", {})
        if not isinstance(models, dict):
            shown = shorten(repr(models), 40)
            raise BortError(f"{self.inputs_file}: models is {shown}, no table; {RESTORE}")
        return models

    def _read_inputs(self) -> dict[str, Any]:
        """Return what `check_inputs` noted; an empty table before that."""
        return read_json(self.inputs_file, RESTORE) if self.inputs_file.is_file() else {}

    def _is_data_touched(self, run: TrainConfig) -> bool:
        """Whether a data file was touched since the run began, perhaps without a change."""
        noted, now = self._read_inputs().get("files"), digest_data_files(run)
        return noted is not None and now is not None and now != noted

    def _check_models(self, run: TrainConfig) -> None:
        """Raise BortError when a finished run's models are other ones now; one may be gone."""
        then = self.read_models()
        names = {key: name for key, name in run.list_models().items() if key in then}
        folders = {key: find_local_model(name) for key, name in names.items()}
        now = {key: digest_folder(folder) for key, folder in folders.items() if folder}
        check_models(then, now, self.path)

    # ------------------------------------------------------------------------------- the result

    def find_summary(self) -> RunSummary | None:
        """Return the summary of a finished run; None where there is none that can be read.

        Such a run is made again. Raises BortError for a summary whose numbers are none.
        """
        try:
            values = read_json(self.summary_file)
        except BortError:
            return None
        return RunSummary.from_json(values, self.summary_file)

    def settle_finished(self) -> RunSummary | None:
        """Return the summary of a finished run, after tidying up; None of an unfinished one.

        A process that was killed after it wrote its summary may have left its lock and temporary
        files, and nobody works in this folder again: they are removed here.
        """
        if (summary := self.find_summary()) is not None:
            ownership.settle(self.path)
            locks.remove_stale(self.path / LOCK)
        return summary

    def find_result(self, run: TrainConfig) -> RunSummary | None:
        """Return the summary when this run is finished here; None when there is work to do.

        There is also work where data files are not as they were: they are read again, and
        `check_inputs` decides. Raises BortError when the folder holds something else.
        """
        self.check_settings(run)
        if not run.resume or self.find_summary() is None or self._is_data_touched(run):
            return None
        summary = self.settle_finished()
        self._check_models(run)
        logger.info(f"{self} is finished; name= starts another run, resume=false this one again")
        return summary

    def write_summary(self, summary: RunSummary) -> None:
        """Write the results; from now on the run is finished."""
        write_json(self.summary_file, summary.to_json())
