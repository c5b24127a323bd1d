"""Typed settings of a run. The defaults of a key live here and nowhere else; `conf/` composes them.

Nothing heavy is imported: `--cfg job`, `--help` and tab completion load this module.
"""

import re
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from typing import Any, ClassVar

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from bort.config.agora import AgoraConfig
from bort.config.arch import ArchConfig
from bort.config.data import DataConfig
from bort.config.distill import DistillConfig, TeacherConfig
from bort.config.optim import OptimConfig, width_lr
from bort.config.ranges import check_trainer_numbers
from bort.console import counted
from bort.errors import BortError, at_least, one_of
from bort.models.arch import INITS


@dataclass
class CompareConfig:
    """KD against plain MLM from the same start, at equal steps and at equal wall clock."""

    lrs: list[float] | None = None  # rates, of which each arm takes its best; null: optim.lr alone

    def __post_init__(self) -> None:
        if self.lrs is not None and (not self.lrs or min(self.lrs) <= 0):
            raise BortError(f"compare.lrs={self.lrs} needs at least one rate, all above 0")


@dataclass
class LoggerConfig:
    """Where metrics go besides the run folder's metrics.csv, which is always written."""

    name: str = "csv"  # csv, wandb, tensorboard or none
    mode: str = "auto"  # how wandb works: auto (offline without a key), online or offline
    project: str = "bort"  # the project of wandb
    job_type: str | None = None  # the job type of wandb; a search sets that of its candidates
    tags: list[str] = field(default_factory=list)  # the tags of wandb

    def __post_init__(self) -> None:
        one_of("logger.name", self.name, ("csv", "wandb", "tensorboard", "none"))
        one_of("logger.mode", self.mode, ("auto", "online", "offline"))
        if self.name == "tensorboard" and find_spec("tensorboard") is None:
            raise BortError("logger=tensorboard needs the package tensorboard; pip install it")


@dataclass
class TrainConfig:
    """All settings of `train.py`; `trainer`, `callbacks` name Lightning's classes by `_target_`."""

    JOBS: ClassVar[tuple[str, ...]] = ("pretrain", "compare", "finetune", "agora")
    job: str = "pretrain"  # set by experiment=: pretrain, compare, finetune or agora
    arch: ArchConfig = MISSING
    # a YAML with depth, heads, hidden, intermediate, such as the optimum.yaml of a search
    arch_file: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)
    agora: AgoraConfig = field(default_factory=AgoraConfig)
    task: str | None = None  # of fine-tuning: glue/rte …, docstrings, or custom (data.train)
    model: str | None = None  # what is fine-tuned: a run folder, a Hugging Face folder, a hub name
    head: str = "linear"  # of fine-tuning: linear (the paper's) or bort (the released code's)
    patience: int | None = None  # validations without a better score before fine-tuning stops
    init: str = "default"  # start values: default (for small models), paper or teacher
    dropout: float = 0.0  # share of numbers that are set to 0 in training
    checkpoint_every: int = 500  # steps between checkpoints
    compile: bool = False  # whether torch compiles the model
    trainer: Any = None
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    callbacks: Any = None  # Lightning's callbacks, by _target_
    seed: int = 0  # of weights, batches, masks and dropout
    name: str = MISSING  # the last part of the run folder
    resume: bool = True  # false: start again and replace what the folder holds
    dry_run: bool = False  # show parameters, tokens, memory and hours, and stop
    output_dir: str = MISSING  # the run folder

    def __post_init__(self) -> None:
        if isinstance(self.arch, ArchConfig):
            self.arch = self.arch.to_arch()
        if isinstance(self.teacher.arch, ArchConfig):
            self.teacher = replace(self.teacher, arch=self.teacher.arch.to_arch())
        one_of("job", self.job, self.JOBS)
        one_of("init", self.init, INITS)
        one_of("head", self.head, ("linear", "bort"))
        if self.fits_task:
            self._check_task()
        else:
            self._set_rates()
        if not self.fits_task and len(self.data.texts) > 1:
            raise BortError("data.text names two columns, which task=custom takes; name one here")
        if self.data.source == "text" and not (self.data.path or self.dry_run):
            raise BortError("data=text needs data.path=FILE, FOLDER or the name of a hub data set")
        if self.patience is not None:
            at_least("patience", self.patience, 1)
        if not re.fullmatch(r"[A-Za-z0-9_.:+-]+", self.name) or set(self.name) == {"."}:
            raise BortError(
                f"name={self.name!r} cannot name a run folder; use letters, digits and _ - . : +"
            )
        if not re.fullmatch(r"[A-Za-z0-9_.:/+-]+", self.output_dir):  # goes after model= unquoted
            raise BortError(
                f"output_dir={self.output_dir!r} must consist of letters, digits and _ - . / : +"
            )
        at_least("dropout", self.dropout, 0, below=1)
        at_least("checkpoint_every", self.checkpoint_every, 1)
        at_least("seed", self.seed, 0, below=2**32)
        # a comparison says itself that it needs a number of steps
        stops = bool(self.patience or self.callbacks) or self.job == "compare"
        check_trainer_numbers(self.trainer or {}, stops)

    def _check_task(self) -> None:
        if self.job == "agora" and str((self.trainer or {}).get("devices", 1)) != "1":
            raise BortError("experiment=agora trains on one device; use trainer.devices=1")
        if self.job == "agora" and self.patience is not None:
            raise BortError("patience is for experiment=finetune: Agora's arms get equal steps")
        if self.task == "custom" and not self.data.train and not self.model:
            raise BortError(
                "task=custom needs model=FOLDER and data.train=FILE (csv, tsv, jsonl or parquet), "
                "data.text=COLUMN, data.label=COLUMN"
            )
        if not self.task or not (self.model or self.task == "docstrings"):
            raise BortError(
                f"task={self.task} needs model=FOLDER, as in task=glue/rte "
                "model=runs/kd_pretrain/first data.root=glue_data"
            )
        if self.task == "custom" and not self.data.train:
            raise BortError(
                "task=custom needs data.train=FILE (csv, tsv, jsonl or parquet), data.text=COLUMN "
                "and data.label=COLUMN"
            )
        if self.task == "custom" and self.data.label in self.data.texts:
            raise BortError(
                f"data.label={self.data.label} is the text, too; name the label's column"
            )

    def _set_rates(self) -> None:
        """Give the rates that were left open the width's own."""
        if self.optim.lr is None:
            self.optim = replace(self.optim, lr=width_lr(self.arch.hidden))
        if self.teacher.lr is None:
            self.teacher = replace(self.teacher, lr=width_lr(self.teacher.arch.hidden))
        if self.job == "compare" and self.compare.lrs is None:
            self.compare = replace(self.compare, lrs=[self.optim.lr])

    def training(self, **changes: Any) -> "TrainConfig":
        """The settings of one training with these changes, also out of a search's."""
        own = {each.name: getattr(self, each.name) for each in fields(TrainConfig)}
        return TrainConfig(
            **own
            | {"job": "pretrain", "compare": CompareConfig(), "agora": AgoraConfig()}
            | changes
        )

    @property
    def fits_task(self) -> bool:
        return self.job in ("finetune", "agora")

    @property
    def needs_teacher(self) -> bool:
        if self.fits_task:
            return False
        return self.distill.w_kd > 0 or self.job == "compare" or self.init == "teacher"


ConfigStore.instance().store(name="train_schema", node=TrainConfig)


def describe_run(run: TrainConfig) -> str:
    """One line: what will be trained, from what, on what, for how long."""
    trainer, data = run.trainer or {}, run.data
    if run.fits_task:
        epochs, steps = trainer.get("max_epochs"), trainer.get("max_steps") or -1
        budget = "no limit" if epochs in (None, -1) else f"{epochs} epoch{'s' * (epochs != 1)}"
        if steps > 0:
            budget = counted(steps, "step")
        model = run.model or f"an encoder {run.arch} of its own"
        task = data.train if run.task == "custom" else run.task
        return f"{model} on {task}, {budget} of {counted(data.batch_size, 'row')}"
    teacher = run.teacher.name or f"{run.teacher.arch} (trained first unless cached)"
    how = f"learns from teacher {teacher}" if run.distill.w_kd else "learns by plain MLM"
    if run.job == "compare":
        how = f"with and without teacher {teacher}"
    text = data.path or "text to be named" if data.source == "text" else "embedded docstrings"
    batch = data.batch_size * (trainer.get("accumulate_grad_batches") or 1)
    steps = counted(trainer.get("max_steps", -1), "step")
    budget = f"{steps} of {batch} × {data.length} tokens"
    if trainer.get("max_time"):
        budget = f"{trainer['max_time']} (DD:HH:MM:SS) of {batch} × {data.length} tokens a step"
    rates = run.compare.lrs if run.job == "compare" else [run.optim.lr]
    return f"{run.arch} {how} on {text}, {budget}, lr {', '.join(f'{lr:.3g}' for lr in rates)}"


def named_models(run: TrainConfig) -> dict[str, str]:
    """The names of the models that a run reads, by the setting that holds them."""
    names = {"model": run.model} if run.fits_task else {}
    if run.needs_teacher or run.job == "agora":
        names["teacher.name"] = run.teacher.name
    if run.job == "agora":
        names |= {"agora.teacher": run.agora.teacher, "agora.mlm": run.agora.mlm}
    return {key: name for key, name in names.items() if name}
