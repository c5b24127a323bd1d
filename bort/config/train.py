"""Typed settings of a run. The defaults of a key live here and nowhere else; `conf/` composes them.

Nothing heavy is imported: `--cfg job`, `--help` and tab completion load this module.
"""

import re
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from bort.config.agora import AgoraConfig
from bort.config.arch import ArchConfig
from bort.config.data import DataConfig
from bort.config.distill import CompareConfig, DistillConfig, TeacherConfig
from bort.config.optim import AUTO_RATE, OptimConfig, width_lr
from bort.config.trainer import LoggerConfig, TrainerConfig, check_trainer_numbers
from bort.console import counted
from bort.errors import BortError, check_at_least, check_choice
from bort.models.arch import INITS

EMBED = "embed"  # the task of a text's embedding, which has no labels


@dataclass
class TrainConfig:
    """All settings of `train.py`, as Hydra takes them: what they are for decides `job`.

    A job is one of the classes below. `trainer` and `callbacks` name Lightning's classes by
    `_target_`.
    """

    JOBS: ClassVar[tuple[str, ...]] = ("pretrain", "compare", "finetune", "kd_finetune", "agora")
    fits_task: ClassVar[bool] = False  # whether it trains a classifier on the rows of a task
    teaches_task: ClassVar[bool] = False  # whether a fine-tuned teacher answers these rows
    ends_by_steps: ClassVar[bool] = False  # whether the job itself needs a number of steps
    tries_rates: ClassVar[bool] = False  # whether optim.lr=auto is for it
    job: str = "pretrain"  # set by experiment=: pretrain, compare, finetune, kd_finetune or agora
    arch: ArchConfig = MISSING
    # a YAML with depth, heads, hidden, intermediate, such as the optimum.yaml of a search
    arch_file: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)
    agora: AgoraConfig = field(default_factory=AgoraConfig)
    # of fine-tuning: glue/rte …, docstrings, custom (data.train), or embed (a vector for each text)
    task: str | None = None
    # what is fine-tuned, or pre-trained further: a run folder, a Hugging Face folder, a hub name
    model: str | None = None
    # of fine-tuning: linear (the paper's), bort (the released code's), mean (of all tokens) or
    # towers (the texts of a pair are encoded apart)
    head: str = "linear"
    patience: int | None = None  # validations without a better score before fine-tuning stops
    # start values: default (for small models), paper or teacher; null: teacher in a search, a
    # comparison and a pre-training with a teacher, else default
    init: str | None = None
    # of init=teacher: its layers that become those of the student, as [0,2,4]; [] is none, and null
    # spreads them evenly where the widths are equal
    init_layers: list[int] | None = None
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
        self.trainer = self.trainer or {}
        check_choice("job", self.job, self.JOBS)
        if self.init is not None:
            check_choice("init", self.init, INITS)
        check_choice("head", self.head, ("linear", "bort", "mean", "towers"))
        if self.optim.lr == AUTO_RATE and not self.tries_rates:
            raise BortError(
                "optim.lr=auto is for tasks with labels, in experiment=finetune and kd_finetune; "
                "Agora tries the rates of agora.grid.lr_factor=[…], and all else takes a number"
            )
        self._settle_start_and_losses()
        self._fill_and_check()
        if self.data.source == "text" and not (self.data.path or self.dry_run):
            raise BortError("data=text needs data.path=FILE, FOLDER or the name of a hub data set")
        if self.patience is not None:
            check_at_least("patience", self.patience, 1)
        if not re.fullmatch(r"[A-Za-z0-9_.:+-]+", self.name) or set(self.name) == {"."}:
            raise BortError(
                f"name={self.name!r} cannot name a run folder; use letters, digits and _ - . : +"
            )
        if not re.fullmatch(r"[A-Za-z0-9_.:/+-]+", self.output_dir):  # goes after model= unquoted
            raise BortError(
                f"output_dir={self.output_dir!r} must consist of letters, digits and _ - . / : +"
            )
        check_at_least("dropout", self.dropout, 0, below=1)
        check_at_least("checkpoint_every", self.checkpoint_every, 1)
        check_at_least("seed", self.seed, 0, below=2**32)
        stops = bool(self.patience or self.callbacks) or self.ends_by_steps
        check_trainer_numbers(self.trainer, stops)

    def _settle_start_and_losses(self) -> None:
        """Fill in `init` and the weights of the losses, but where a teacher decides them.

        What is learnt is decided by a named one alone: one that is trained here has a head.
        """
        if self.init is None and not self.has_teacher:
            self.init = "default"
        if not (self.distill.is_open and self.job == "pretrain" and self.teacher.name):
            self.distill = self.distill.settle()
        layers = None if self.model else self.init_layers  # which is refused beside a model
        if layers and len(layers) != self.arch.depth:
            raise BortError(
                f"init_layers={layers} names {counted(len(layers), 'layer')}, the student has "
                f"{self.arch.depth}"
            )

    def _fill_and_check(self) -> None:
        """Fill in what follows from other settings; raises BortError for what the job lacks."""

    @property
    def learns_embeddings(self) -> bool:
        """Whether the embeddings of a teacher are learnt, on texts without labels."""
        return self.job == "kd_finetune" and self.task == EMBED

    @property
    def has_teacher(self) -> bool:
        """Whether a pre-training has a teacher, named or trained here, from which it can start."""
        if self.job == "pretrain":
            return self.distill.asks_teacher or bool(self.teacher.name)
        return self.job in ("compare", "search")

    def settle(self, has_head: bool = True) -> Self:
        """Return these settings with all filled in that a teacher decides, who may have a head."""
        init = self.init or ("teacher" if self.has_teacher else "default")
        return replace(self, init=init, distill=self.distill.settle(has_head))

    def settle_as(self, record: dict[str, Any]) -> Self:
        """Return these settings with what they leave open as in the flat settings of a run."""
        distill = self.distill.settle(has_head=bool(record.get("distill.w_kd", 1.0)))
        return replace(self, init=self.init or record.get("init"), distill=distill)

    def to_pretraining(self, **changes: Any) -> "PretrainRunConfig":
        """Return the settings of one pre-training with these changes, also out of a search's."""
        values = {item.name: getattr(self, item.name) for item in fields(TrainConfig)}
        values |= {
            "job": "pretrain",
            "model": None,
            "compare": CompareConfig(),
            "agora": AgoraConfig(),
        }
        return PretrainRunConfig(**values | changes)

    @property
    def trainer_config(self) -> TrainerConfig:
        """What bort reads of the trainer's keys."""
        return TrainerConfig.from_keys(self.trainer)

    def with_precision(self, precision: str) -> Self:
        """Return these settings with another `trainer.precision`."""
        return replace(self, trainer={**self.trainer, "precision": precision})

    @property
    def needs_teacher(self) -> bool:
        """Whether a masked LM beside the one that is trained is needed."""
        return False

    def list_models(self) -> dict[str, str]:
        """Return the names of the models that are read, by the setting that holds them."""
        raise NotImplementedError

    def describe(self) -> str:
        """Return one line: what will be trained, from what, on what, for how long."""
        raise NotImplementedError


@dataclass
class PretrainRunConfig(TrainConfig):
    """A masked LM that is trained on text, by a teacher, by the text or by both."""

    def _fill_and_check(self) -> None:
        """Give the rates that were left open those that suit the widths; see to `model`."""
        if self.optim.lr is None:
            self.optim = replace(self.optim, lr=width_lr(self.arch.hidden))
        if self.teacher.lr is None:
            self.teacher = replace(self.teacher, lr=width_lr(self.teacher.arch.hidden))
        if len(self.data.texts) > 1:
            raise BortError("data.text names two columns, which task=custom takes; name one here")
        if self.model:
            self._take_words_of_model()
        if self.data.tokenizer == "auto" and not self.teacher.name:  # then one is trained
            self.data.check_bpe_size()

    def _take_words_of_model(self) -> None:
        """Take the tokenizer of the model that is continued, which numbers its words."""
        if self.data.tokenizer not in ("auto", self.model):
            raise BortError(
                f"data.tokenizer={self.data.tokenizer} cannot be used: model={self.model} has a "
                "tokenizer of its own; use data.tokenizer=auto"
            )
        self.data = replace(self.data, tokenizer=self.model, vocab_size=None)
        self.init = "default"  # it is not read: all weights are the model's

    @property
    def needs_teacher(self) -> bool:
        """Whether the student learns from a teacher, or starts as one."""
        return self.distill.asks_teacher or self.init in ("teacher", None)

    def list_models(self) -> dict[str, str]:
        """Return the names of the model that is continued and of the teacher, by their settings."""
        teacher = self.teacher.name if self.needs_teacher else None
        names = {"model": self.model, "teacher.name": teacher}
        return {key: name for key, name in names.items() if name}

    def describe(self) -> str:
        """Return one line: what is trained, how, on what, for how long and at which rates."""
        trainer, data = self.trainer_config, self.data
        text = data.path or "text to be named" if data.source == "text" else "embedded docstrings"
        batch = data.batch_size * (trainer.accumulate_grad_batches)
        budget = f"{counted(trainer.max_steps, 'step')} of {batch} × {data.length} tokens"
        if trainer.max_time:
            budget = f"{trainer.max_time} (DD:HH:MM:SS) of {batch} × {data.length} tokens a step"
        rates = ", ".join(f"{rate:.3g}" for rate in self.rates)
        student = f"{self.model}, {self.arch}," if self.model else self.arch
        return f"{student} {self._describe_learning()} on {text}, {budget}, lr {rates}"

    def _describe_learning(self) -> str:
        """How the model learns, as a part of a sentence."""
        if self.distill.asks_teacher:
            return f"learns from teacher {self._source}"
        return "learns by plain MLM"

    @property
    def _source(self) -> str:
        """The teacher, by its name or by its shape."""
        return self.teacher.name or f"{self.teacher.arch} (trained first unless cached)"

    @property
    def rates(self) -> list[float]:
        """The peak rates that are tried."""
        return [self.optim.lr]


@dataclass
class CompareRunConfig(PretrainRunConfig):
    """The same student with and without its teacher."""

    ends_by_steps: ClassVar[bool] = True  # it says itself that it needs a number of steps

    def _fill_and_check(self) -> None:
        super()._fill_and_check()
        if self.compare.lrs is None:
            self.compare = replace(self.compare, lrs=[self.optim.lr])

    @property
    def needs_teacher(self) -> bool:
        """Always: one of the arms learns from it."""
        return True

    def _describe_learning(self) -> str:
        return f"with and without teacher {self._source}"

    @property
    def rates(self) -> list[float]:
        """The peak rates of which each arm takes its best."""
        return self.compare.lrs


@dataclass
class FinetuneRunConfig(TrainConfig):
    """A classifier that is trained on the rows of a task."""

    fits_task: ClassVar[bool] = True
    tries_rates: ClassVar[bool] = True

    def _fill_and_check(self) -> None:
        if self.optim.lr == AUTO_RATE:
            self._check_trials()
        if self.task == EMBED:
            self._fit_to_embeddings()
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
        has_one_text = self.task == "docstrings" or len(self.data.texts) == 1
        if self.head == "towers" and has_one_text and self.task in ("docstrings", "custom"):
            raise BortError(
                f"head=towers compares two texts, and task={self.task} has one a row; use "
                "head=linear or head=mean"
            )
        shared = [name for name in self.data.labels if name in self.data.texts]
        if self.task == "custom" and shared:
            raise BortError(f"data.label={shared[0]} is the text, too; name the label's column")

    def _fit_to_embeddings(self) -> None:
        """Take pairs of texts with a number, whose cosine is learnt; raise BortError for others."""
        if not self.data.train or len(self.data.texts) < 2:
            raise BortError(
                "task=embed needs data.train=FILE with data.text=[a,b] and data.label=COLUMN, a "
                "number; or experiment=kd_finetune with teacher.name= and data.unlabelled="
            )
        metric = self.data.metric or "spearman"
        self.head, self.data = "towers", replace(self.data, kind="number", metric=metric)

    def _check_trials(self) -> None:
        """Raise BortError for a training of which no shorter one can be made to try rates."""
        if self.trainer_config.max_time:
            raise BortError("optim.lr=auto tries rates by epochs; use trainer.max_epochs=")
        if not self.trainer_config.is_one_device:
            raise BortError("optim.lr=auto tries rates on one device; use trainer.devices=1")

    def list_models(self) -> dict[str, str]:
        """Return the name of the model that is fine-tuned, by its setting."""
        return {"model": self.model} if self.model else {}

    def describe(self) -> str:
        """Return one line: which model is trained on which task, for how long."""
        trainer = self.trainer_config
        budget = "no limit"
        if trainer.max_epochs not in (None, -1):
            budget = counted(trainer.max_epochs, "epoch")
        if trainer.max_steps > 0:
            budget = counted(trainer.max_steps, "step")
        model = self.model or f"an encoder {self.arch} of its own"
        task = self.data.train if self.task in ("custom", EMBED) else self.task
        return f"{model} on {task}, {budget} of {counted(self.data.batch_size, 'row')}"


@dataclass
class TaskDistillationConfig(FinetuneRunConfig):
    """A classifier that learns the answers of a teacher, also to rows without labels."""

    teaches_task: ClassVar[bool] = True

    def _fill_and_check(self) -> None:
        super()._fill_and_check()
        if not self.teacher.name:
            raise BortError(
                "experiment=kd_finetune needs teacher.name=FOLDER: a model that is fine-tuned on "
                "the task, or an encoder, which is fine-tuned on its rows first"
            )
        if not self.trainer_config.is_one_device:
            raise BortError("experiment=kd_finetune trains on one device; use trainer.devices=1")
        if not (self.distill.w_kd or self.distill.w_ce):
            raise BortError("distill.w_kd and w_ce are both 0; nothing would be learnt")

    def list_models(self) -> dict[str, str]:
        """Return the names of the student and of its teacher, by their settings."""
        return super().list_models() | {"teacher.name": self.teacher.name}

    def describe(self) -> str:
        """Return one line: which model learns from which teacher, and on what."""
        pool = f", and on {self.data.unlabelled}" if self.data.unlabelled else ""
        return f"{super().describe()}{pool}, taught by {self.teacher.name}"


@dataclass
class EmbeddingDistillationConfig(TaskDistillationConfig):
    """An encoder that learns the embeddings of a teacher, on texts without labels."""

    tries_rates: ClassVar[bool] = False
    RELATION: ClassVar[float] = 1.0  # w_relation beside w_kd=1, where neither is given

    def _settle_start_and_losses(self) -> None:
        """Start from the teacher, and learn both its embeddings and their cosines."""
        self.init = self.init or "teacher"
        if self.distill.is_open:
            self.distill = replace(self.distill, w_kd=1.0, w_relation=self.RELATION)
        super()._settle_start_and_losses()

    def _fill_and_check(self) -> None:
        if not self.teacher.name:
            raise BortError(
                "task=embed needs teacher.name=FOLDER: a folder of sentence-transformers, whose "
                "embeddings are learnt"
            )
        if not self.data.unlabelled:
            raise BortError("task=embed needs data.unlabelled=FILE or FOLDER: texts to learn from")
        if not self.trainer_config.is_one_device:
            raise BortError("task=embed trains on one device; use trainer.devices=1")
        if not (self.distill.w_kd or self.distill.w_relation):
            raise BortError("distill.w_kd and w_relation are both 0; nothing would be learnt")

    def describe(self) -> str:
        """Return one line: which model learns whose embeddings, of which texts."""
        model = self.model or f"an encoder {self.arch}"
        return f"{model} learns the embeddings of {self.teacher.name}, of {self.data.unlabelled}"


@dataclass
class AgoraRunConfig(FinetuneRunConfig):
    """Rounds of fine-tuning, mistakes, and rows that are generated from them."""

    tries_rates: ClassVar[bool] = False  # Θ has several

    def _fill_and_check(self) -> None:
        if self.task == EMBED:
            raise BortError("task=embed has no mistakes to learn from; use experiment=kd_finetune")
        if not self.trainer_config.is_one_device:
            raise BortError("experiment=agora trains on one device; use trainer.devices=1")
        if self.patience is not None:
            raise BortError("patience is for experiment=finetune: Agora's arms get equal steps")
        if self.agora.generator == "pool" and not self.data.unlabelled:
            raise BortError("agora.generator=pool needs data.unlabelled=FILE, whose rows it takes")
        super()._fill_and_check()

    def list_models(self) -> dict[str, str]:
        """Return the names of the student and of its teachers, by their settings."""
        agora = {"agora.teacher": self.agora.teacher, "agora.mlm": self.agora.mlm}
        names = {"model": self.model, "teacher.name": self.teacher.name, **agora}
        return {key: name for key, name in names.items() if name}


RUN_CONFIGS: dict[str, type[TrainConfig]] = {
    "pretrain": PretrainRunConfig,
    "compare": CompareRunConfig,
    "finetune": FinetuneRunConfig,
    "kd_finetune": TaskDistillationConfig,
    "agora": AgoraRunConfig,
}


def choose_config(settings: dict[str, Any]) -> type[TrainConfig]:
    """Choose the class of a job's settings, as `job` and `task` say."""
    config = RUN_CONFIGS.get(settings.get("job"), TrainConfig)
    is_embedding = config is TaskDistillationConfig and settings.get("task") == EMBED
    return EmbeddingDistillationConfig if is_embedding else config


FITTING_JOBS = tuple(job for job, config in RUN_CONFIGS.items() if config.fits_task)
ConfigStore.instance().store(name="train_schema", node=TrainConfig)
