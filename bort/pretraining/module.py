"""The LightningModule of pre-training: distillation (arXiv 2010.10499, §4.2), or MLM if w_kd = 0.

Letters: B sequences of a batch, S tokens of a sequence, M masked positions, V vocabulary, H hidden
size.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics import MeanMetric

from bort.config.distill import DistillConfig
from bort.config.optim import OptimConfig, width_lr
from bort.models.bert import MaskedLM, make_attention_mask
from bort.models.in_bf16 import is_bf16_autocast
from bort.models.initialization import draw_weights
from bort.pretraining.losses import (
    compute_entropy,
    distillation_loss,
    kd_loss,
    mlm_loss,
    weigh_losses,
)
from bort.pretraining.state_losses import (
    choose_relation_heads,
    count_texts,
    hidden_loss,
    relation_loss,
)
from bort.pretraining.teacher import check_gifts
from bort.teachers.opening import as_teacher
from bort.teachers.states import read_masked
from bort.teachers.teacher import Teacher
from bort.training.module import StepModule


def list_scores(distill: DistillConfig) -> list[str]:
    """List the scores that a validation logs, the one that it is judged by first."""
    names = []
    if distill.reads_masked:
        names += ["val/loss", "val/mlm_accuracy"]
    if distill.w_kd or distill.is_open:
        names += ["val/kd_loss", "val/teacher_entropy"]
    if distill.w_hidden:
        names.append("val/hidden_loss")
    if distill.w_relation:
        names.append("val/relation_loss")
    return names


class DistillationModule(StepModule):
    """A student that learns from a teacher, from the text, or from both.

    It learns to predict masked words, or to understand unmasked text as its teacher does, or both.
    Train it by any `lightning.Trainer` on a `PackedDataModule`, or on batches of your own. For
    masked words these have input_ids (B, S), flat positions (M,) and labels (M,); for unmasked text
    they have texts (B, S). Both have a mask (B, S) where some of it is padding, attention_mask and
    text_mask, which are 0 there.

    model: the student. teacher: a `MaskedLM` or another `Teacher` with the same vocabulary, which
    is frozen and is never part of `state_dict`; None for plain MLM. optim: if it has no rate, one
    that suits the student's width is used. distill: the weights of the losses. compile: whether to
    use torch.compile. Raises BortError if there is no teacher for a loss, or one that cannot give
    what the loss needs.

    projection: brings the student's states to the width of the teacher's; it is trained with the
    student and is no part of it. There is none where the widths are equal: then the student's own
    states become the teacher's.
    """

    def __init__(
        self,
        model: MaskedLM,
        teacher: Teacher | MaskedLM | None,
        optim: OptimConfig,
        distill: DistillConfig,
        compile: bool = False,
    ):
        teacher = None if teacher is None else as_teacher(teacher)
        distill = distill.settle(teacher is None or "logits" in teacher.gives)
        check_gifts(distill, teacher)
        if optim.lr is None:
            optim = replace(optim, lr=width_lr(model.config.hidden))
        super().__init__(model, optim)
        self.distill = distill
        # What computes the means of a validation batch; None: `compare_with_teacher`.
        self.judge: Callable[[Tensor, dict], tuple[Tensor, ...]] | None = None
        self.keep_outside("teacher", teacher)
        self.keep_outside("_teacher_in_bf16", None)  # made when a step in bf16 asks it
        # The inner module is compiled: a compiled LightningModule that logs crashes.
        self.keep_outside("student", torch.compile(model) if compile else model)
        encoder = model.encoder if distill.reads_unmasked else None
        self.keep_outside("encoder", torch.compile(encoder) if compile and encoder else encoder)
        self.projection: nn.Linear | None = None
        if distill.w_hidden and teacher.arch.hidden != model.config.hidden:
            self.projection = build_projection(model, teacher)
        self.relation_heads = None
        if distill.w_relation:
            sizes = (model.config.hidden, teacher.arch.hidden)
            self.relation_heads = choose_relation_heads(*sizes, distill.relation_heads)
        if not distill.reads_masked:  # a process of DDP would wait for its gradients
            model.head.requires_grad_(False)
        is_compared = teacher is not None and "logits" in teacher.gives
        if is_compared and not distill.reads_unmasked:  # with a teacher it need not learn from
            distill = replace(distill, w_kd=1.0)
        self.scores = list_scores(distill)
        self.metric = "val/mlm_accuracy" if distill.reads_masked else self.scores[0]
        # By default, a NaN would be left out, and the mean of the other losses would be reported as
        # the mean of all; with "disable", its weight would be left out as well.
        self.metrics = nn.ModuleDict(
            {name.removeprefix("val/"): MeanMetric(nan_strategy=math.nan) for name in self.scores}
        )
        # The teacher's own scores at the same positions: no step changes them, so that the first
        # validation of a training finds them, and one after it, which may read more. None
        # logs them.
        self.teacher_loss, self.teacher_accuracy = (
            MeanMetric(nan_strategy=math.nan) for _ in range(2)
        )
        self.teacher_scores: dict[str, float] = {}

    def forward(
        self, input_ids: Tensor, positions: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the student's logits (M, V) at the flat positions (M,)."""
        if self.student is not self.model:
            # M differs from batch to batch. The compiler would find that out at the second batch,
            # and compile everything once more.
            torch._dynamo.maybe_mark_dynamic(positions, 0)
        return self.student(input_ids, attention_mask, positions=positions)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss of a batch and add it to its optimizer step."""
        losses: dict[str, Tensor] = {}
        if self.distill.reads_masked:
            logits = self(*read_masked(batch))  # (M, V)
            teacher = self.ask_teacher(batch) if self.distill.w_kd else None
            labels = batch["labels"]
            losses = distillation_loss(logits, teacher, labels, self.distill, self.reduction)
        if self.distill.reads_unmasked:
            losses |= self._compare_texts(batch, self.reduction)
            losses.pop("loss", None)
            losses = weigh_losses(losses, self.distill)
        self.count(batch, losses)
        return losses["loss"]

    def _compare_texts(self, batch: dict[str, Tensor], reduction: str) -> dict[str, Tensor]:
        """Compute the losses on the unmasked text of a batch.

        Beside losses on masked words, those are weighed as one loss: the mean of the batch, times
        its masked words where these are summed.
        """
        mean = reduction if not self.distill.reads_masked else "mean"
        losses = self.compare_texts(batch, mean)
        if reduction == "sum" and self.distill.reads_masked:
            losses = {name: loss * len(batch["labels"]) for name, loss in losses.items()}
        return losses

    def compare_texts(self, batch: dict[str, Tensor], reduction: str = "mean") -> dict[str, Tensor]:
        """Compare the student's states and relations of unmasked text with the teacher's."""
        texts, mask = batch["texts"], batch.get("text_mask")
        teacher, losses = self.choose_teacher(), {}
        target = batch.get("text_states")
        encoder = self.encoder if self.training else self.model.encoder
        if self.distill.w_relation:
            encoder = self.model.encoder  # which is not compiled in parts
            last = len(encoder.layers) - 1
            x = encoder(texts, mask, depth=last)  # (B, S, H)
            ours = encoder.layers[last].attention.project(x)
            layer = self.distill.relation_layer
            if self.distill.w_hidden and target is None:  # one pass of the teacher for both
                target, theirs = teacher.compute_states_and_relations(texts, mask, layer)
            else:
                theirs = teacher.compute_relations(texts, mask, layer)
            losses["relation_loss"] = relation_loss(
                ours, theirs, self.relation_heads, mask, reduction
            )
            states = encoder.layers[last](x, make_attention_mask(mask))
        else:
            states = encoder(texts, mask)
        if self.distill.w_hidden:
            if target is None:
                target = teacher.compute_states(texts, mask)
            projected = states if self.projection is None else self.projection(states)
            losses["hidden_loss"] = hidden_loss(projected, target, mask, reduction)
        return losses

    def count_targets(self, batch: dict[str, Tensor]) -> int:
        """Count the masked words of a batch, or its texts where no word is masked."""
        if self.distill.reads_masked:
            return len(batch["labels"])
        return count_texts(batch["texts"], batch.get("text_mask"))

    def count_tokens(self, batch: dict[str, Tensor]) -> int:
        """Count the tokens of a batch; a text that is read masked and unmasked counts once."""
        masked = self.distill.reads_masked
        ids, mask = ("input_ids", "attention_mask") if masked else ("texts", "text_mask")
        return int(batch[mask].sum()) if mask in batch else batch[ids].numel()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Add a batch to the mean scores over all masked tokens; return predicted words (M,)."""
        with self.in_float32():
            if self.distill.reads_unmasked:
                count = count_texts(batch["texts"], batch.get("text_mask"))
                for name, loss in self.compare_texts(batch).items():
                    self.metrics[name].update(loss, count)
            if not self.distill.reads_masked:
                return torch.empty(0, dtype=torch.int64)
            return self._validate(batch)

    def _validate(self, batch: dict[str, Tensor]) -> Tensor:
        # The compiler would take longer to make a graph for validations than most of them take.
        ids, positions, mask = read_masked(batch)
        logits = self.model(ids, mask, positions=positions)  # (M, V)
        labels = batch["labels"]
        # `argmax` finds the same words, and takes three times as long on a CPU.
        predictions, count = logits.max(-1).indices, len(labels)
        if count == 0:
            return predictions
        self.metrics["mlm_accuracy"].update((predictions == labels).float().mean(), count)
        judge = self.judge or self.compare_with_teacher
        names = ("loss", "kd_loss", "teacher_entropy")
        for name, loss in zip(names, judge(logits, batch), strict=False):
            self.metrics[name].update(loss, count)
        return predictions

    def compare_with_teacher(self, logits: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Compute what a validation reports of a batch, as means in nats per masked word.

        Returns the loss against the true words, and of a student with a teacher also KL at τ = 1
        and the teacher's entropy.
        """
        mlm = mlm_loss(logits, batch["labels"])
        if "kd_loss" not in self.metrics:
            return (mlm,)
        teacher = self.ask_teacher(batch)
        if not self.teacher_scores or self.trainer.state.fn == TrainerFn.VALIDATING:
            is_right = teacher.max(-1).indices == batch["labels"]
            self.teacher_loss.update(mlm_loss(teacher, batch["labels"]), len(logits))
            self.teacher_accuracy.update(is_right.float().mean(), len(logits))
        return mlm, kd_loss(logits, teacher, 1.0), compute_entropy(teacher)

    def choose_teacher(self) -> Teacher:
        """Return the teacher, or within a step in bf16 its copy for that."""
        if not is_bf16_autocast(self.device):
            return self.teacher
        if self._teacher_in_bf16 is None:
            self.keep_outside("_teacher_in_bf16", self.teacher.copy_in_bf16())
        return self._teacher_in_bf16

    @torch.no_grad()
    def ask_teacher(self, batch: dict[str, Tensor]) -> Tensor:
        """Compute the teacher's logits (M, V), from its cached states if the batch has them."""
        teacher = self.choose_teacher()
        if (states := batch.get("teacher_states")) is not None:
            return teacher.decode(states.float())
        return teacher.compute_logits(*read_masked(batch))

    def on_fit_start(self) -> None:
        """Move the teacher to the student's device, which Lightning does not do."""
        self.on_validation_start()

    def on_validation_start(self) -> None:
        """Move the teacher to the student's device, for validations outside of a training too."""
        if self.teacher is not None:
            self.teacher.to(self.device)

    def on_validation_epoch_end(self) -> None:
        """Log the means of a validation; raise Diverged if its loss is not a finite number."""
        by_name = {name: self.metrics[name.removeprefix("val/")] for name in self.scores}
        # In training this is the row of step k; a later `trainer.validate` leaves the same row.
        self.log_dict({name: metric.compute() for name, metric in by_name.items()}, logger=False)
        values = {name: self.trainer.callback_metrics[name].item() for name in by_name}
        self.check_finite(values[self.scores[0]], self.trainer.global_step)
        for metric in by_name.values():
            metric.reset()
        self._note_teacher_scores()
        self.log_validation(values)

    def _note_teacher_scores(self) -> None:
        """Keep the means of the teacher's scores if this whole validation has asked it."""
        metrics = {"teacher_loss": self.teacher_loss, "teacher_accuracy": self.teacher_accuracy}
        if self.teacher_loss.update_called and not self.trainer.sanity_checking:
            self.teacher_scores = {name: m.compute().item() for name, m in metrics.items()}
        for metric in metrics.values():
            metric.reset()


def build_projection(model: MaskedLM, teacher: Teacher) -> nn.Linear:
    """Build the matrix that brings the student's states to the teacher's width."""
    layer = nn.utils.skip_init(nn.Linear, model.config.hidden, teacher.arch.hidden, bias=False)
    draw_weights(layer, model.config.hidden**-0.5, torch.Generator().manual_seed(0))
    return layer
