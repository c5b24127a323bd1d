"""The side of Hugging Face in the comparison of fine-tuning.

It trains `AutoModelForSequenceClassification` with Hugging Face's tokenizer and its
`DataCollatorWithPadding`, either by `transformers.Trainer` (which needs accelerate) or with the
same steps written out.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertModel,
    DataCollatorWithPadding,
    EvalPrediction,
    Trainer,
    TrainingArguments,
    get_linear_schedule_with_warmup,
)

from bort.config.train import TrainConfig
from bort.finetuning.datamodule import TaskDataModule
from bort.finetuning.examples import encode_examples
from bort.finetuning.heads import build_task_classifier, describe_outputs
from bort.finetuning.module import to_answers
from bort.models.huggingface import load_masked_lm, load_tokenizer, save_model
from bort.tasks.metrics import compute_scores
from bort.tasks.reading import load_task
from bort.tasks.task import Task


def count_outputs(task: Task) -> int:
    """Return the outputs of the task's head: one for each label, or one number."""
    return 1 if task.kind == "regression" else len(task.labels)


def group_by_decay(modules: nn.Module, weight_decay: float) -> list[dict]:
    """Group parameters as Trainer does: all but biases and LayerNorms decay."""
    plain = [n.endswith("bias") or "LayerNorm" in n for n, _ in modules.named_parameters()]
    both = list(zip(plain, modules.parameters(), strict=True))
    return [
        {"params": [p for no_decay, p in both if not no_decay], "weight_decay": weight_decay},
        {"params": [p for no_decay, p in both if no_decay], "weight_decay": 0.0},
    ]


class HuggingFaceSide:
    """Model, data and steps of the Hugging Face side, which trains on the same rows as ours."""

    def __init__(self, run: TrainConfig):
        torch.manual_seed(run.seed)
        self.run = run
        self.task, self.rows = load_task(run.task, run.data)
        self.tokenizer = AutoTokenizer.from_pretrained(run.model)
        self.model = AutoModelForSequenceClassification.from_pretrained(
            run.model,
            num_labels=count_outputs(self.task),
            hidden_dropout_prob=run.dropout,
            attention_probs_dropout_prob=run.dropout,
        )
        self.loader = self.build_loader("train", run.data.batch_size, shuffle=True)

    def build_loader(self, split: str, size: int, shuffle: bool) -> DataLoader:
        rows = [
            {
                **self.tokenizer(*row.texts, truncation=True, max_length=self.run.data.length),
                "labels": row.label,
            }
            for row in self.rows[split]
        ]
        collate = DataCollatorWithPadding(self.tokenizer)
        return DataLoader(rows, size, shuffle=shuffle, collate_fn=collate)

    def take_steps(self, total: int, bf16: bool = False) -> Iterator[int]:
        """Train for `total` steps or more, and yield the number of rows after each step."""
        o = self.run.optim
        groups = group_by_decay(self.model, o.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=o.lr, fused=True)
        rate = get_linear_schedule_with_warmup(optimizer, math.ceil(o.warmup * total), total)
        while True:
            self.model.train()
            for batch in self.loader:
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    loss = self.model(**batch).loss
                loss.backward()
                nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                optimizer.step()
                rate.step()
                optimizer.zero_grad()
                yield len(batch["labels"])


def train_with_trainer(run: TrainConfig, folder: Path) -> dict:
    """Train with `transformers.Trainer`; the epoch with the best first metric counts."""
    side, o, size = HuggingFaceSide(run), run.optim, run.data.batch_size
    epochs, first = run.trainer["max_epochs"], f"eval_{side.task.metrics[0]}"
    steps = epochs * len(side.loader)

    def metrics(prediction: EvalPrediction) -> dict[str, float]:
        answers = to_answers(side.task, torch.from_numpy(prediction.predictions))
        return compute_scores(side.task, side.rows["val"], answers)

    trainer = Trainer(
        side.model,
        TrainingArguments(
            str(folder),
            num_train_epochs=epochs,
            per_device_train_batch_size=size,
            per_device_eval_batch_size=4 * size,
            learning_rate=o.lr,
            weight_decay=o.weight_decay,
            adam_epsilon=o.eps,
            warmup_steps=math.ceil(o.warmup * steps),
            max_grad_norm=1.0,
            eval_strategy="epoch",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            seed=run.seed,
            use_cpu=True,
        ),
        DataCollatorWithPadding(side.tokenizer),
        side.loader.dataset,
        side.build_loader("val", 4 * size, shuffle=False).dataset,
        compute_metrics=metrics,
    )
    trainer.train()
    evaluations = [row for row in trainer.state.log_history if first in row]
    best = max(evaluations, key=lambda row: row[first])
    return {f"val/{metric}": best[f"eval_{metric}"] for metric in side.task.metrics}


def compute_reference_losses(run: TrainConfig, start: Path, steps: int) -> list[float]:
    """Compute the losses of the same steps by Hugging Face's encoder with a linear layer on it.

    Not by Hugging Face's classifier: our folder writes one linear layer as its ε I, tanh and W / ε,
    which answers alike but trains otherwise.
    """
    task, rows = load_task(run.task, run.data)
    tokenizer = load_tokenizer(run.model)
    body = load_masked_lm(run.model, head_required=False)
    examples = encode_examples(task, rows, tokenizer, run.data.length)
    fresh = build_task_classifier(body, examples, run.head, 0.0, run.seed)
    save_model(fresh, tokenizer, start, describe_outputs(task))
    parts = nn.ModuleDict(
        {
            "bert": BertModel.from_pretrained(start, add_pooling_layer=False),
            "out": nn.Linear(body.config.hidden, count_outputs(task)),
        }
    ).train()
    parts["out"].load_state_dict(fresh.out.state_dict())
    batches = TaskDataModule.from_examples(examples, run.data, run.seed).train
    o = run.optim
    groups = group_by_decay(parts, o.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=o.lr, betas=(o.beta1, o.beta2), eps=o.eps)
    losses = []
    for step in range(steps):
        batch = batches[step]
        states = parts["bert"](
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            token_type_ids=batch.get("token_types"),
        ).last_hidden_state
        answers = parts["out"](states[:, 0])
        if task.kind == "regression":
            # Numbers are learnt around 0, and the loss is in the unit of the labels.
            offset, factor = fresh.scale
            unit_loss = F.mse_loss(answers[:, 0].double(), (batch["labels"] - offset) / factor)
            loss = factor**2 * unit_loss
        else:
            loss = unit_loss = F.cross_entropy(answers, batch["labels"])
        done = (step + 1) / (steps + 1)
        for group in optimizer.param_groups:
            group["lr"] = o.lr * min(done / o.warmup, (1 - done) / (1 - o.warmup))
        optimizer.zero_grad()
        unit_loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses
