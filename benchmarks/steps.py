"""Training steps of our models and of Hugging Face's, on the same random text, timed in turns.

The Hugging Face side is what its Trainer runs: `BertForMaskedLM`, its collator
`DataCollatorForLanguageModeling`, AdamW, gradient norm 1.
"""

import itertools
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM, DataCollatorForLanguageModeling

from bort.config.optim import OptimConfig
from bort.models.arch import Arch
from bort.models.bert import MaskedLM, ModelConfig
from bort.models.initialization import build_model
from bort.pretraining.losses import kd_loss, mlm_loss
from bort.pretraining.masking import compute_row_keys, mask_tokens
from bort.text.tokenizer import train_tokenizer
from bort.training.optim import build_optimizer

RATE, LENGTH = 0.15, 128  # share of masked tokens, tokens of a sequence


def time_interleaved(contenders: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each after a warm-up, timed in turns whose order alternates."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for function in contenders.values():
        function()
    for number in range(rounds):
        names = list(contenders)
        for name in names if number % 2 == 0 else reversed(names):
            start = time.perf_counter()
            contenders[name]()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def build_ours(arch: Arch, vocab: int) -> MaskedLM:
    return build_model(ModelConfig(**vars(arch), vocab_size=vocab), "paper")


def build_theirs(arch: Arch, vocab: int) -> BertForMaskedLM:
    return BertForMaskedLM(
        BertConfig(
            vocab_size=vocab,
            hidden_size=arch.hidden,
            num_hidden_layers=arch.depth,
            num_attention_heads=arch.heads,
            intermediate_size=arch.intermediate,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=1,
        )
    )


def make_tokenizer(vocab: int):
    """Make a tokenizer of this size for the collator; its words do not matter."""
    words = [" ".join(f"w{i}" for i in range(k, k + 50)) for k in range(0, 2000, 50)]
    small = train_tokenizer(words, 300)
    small.add_tokens([f"<{i}>" for i in range(vocab - len(small))])
    return small


class Texts:
    """Yield fresh random sequences `<s> … </s>`, the same for both sides."""

    def __init__(self, vocab: int, batch: int, length: int = LENGTH):
        self.rng = np.random.default_rng(0)
        self.vocab, self.shape = vocab, (batch, length)
        self.special = np.zeros(vocab, dtype=bool)
        self.special[:5] = True

    def __call__(self) -> np.ndarray:
        ids = self.rng.integers(5, self.vocab, self.shape)
        ids[:, 0], ids[:, -1] = 0, 2
        return ids

    def keys(self) -> np.ndarray:
        return compute_row_keys(0, self.rng.integers(2**32, size=self.shape[0]))

    def masked(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        arrays = mask_tokens(self(), RATE, self.special, 4, self.vocab, self.keys())
        return tuple(torch.from_numpy(a) for a in arrays)


def take_turns(prepared: list) -> Callable:
    """Return a function that yields these batches in turns, without an end."""
    turn = itertools.cycle(prepared)
    return lambda: next(turn)


def synchronize(step: Callable[[], None], device: str) -> Callable[[], None]:
    """Make a step that ends when the device has done its work."""

    def call() -> None:
        step()
        if device != "cpu":
            torch.cuda.synchronize()

    return call


def use_bf16(device: str, wanted: bool) -> torch.autocast:
    return torch.autocast(device, torch.bfloat16, enabled=wanted)


def make_our_step(
    student,
    batch: Callable,
    teacher: MaskedLM | None = None,
    device: str = "cpu",
    bf16: bool = True,
    optimizer: torch.optim.Optimizer | None = None,
):
    if optimizer is None:
        optimizer = build_optimizer(student, OptimConfig(name="adamw", lr=1e-4))

    def step() -> None:
        inputs, positions, labels = batch()
        with use_bf16(device, bf16):
            logits = student(inputs, positions=positions)
            if teacher is None:
                loss = mlm_loss(logits, labels)
            else:
                with torch.no_grad():
                    target = teacher(inputs, positions=positions)
                loss = kd_loss(logits, target, 2.0)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()

    return step


def make_collated(texts: Texts) -> Callable[[], dict]:
    """Yield batches as Hugging Face's collator makes them."""
    collate = DataCollatorForLanguageModeling(make_tokenizer(texts.vocab), mlm_probability=RATE)
    return lambda: dict(collate([{"input_ids": row} for row in texts().tolist()]))


def make_their_step(
    student: BertForMaskedLM,
    batch: Callable[[], dict],
    teacher: BertForMaskedLM | None = None,
    device: str = "cpu",
    bf16: bool = True,
):
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        inputs = dict(batch())
        with use_bf16(device, bf16):
            if teacher is None:
                loss = student(**inputs).loss
            else:  # full-vocabulary logits of both models everywhere
                chosen = inputs.pop("labels") != -100
                logits = student(**inputs).logits
                with torch.no_grad():
                    target = teacher(**inputs).logits
                p = F.log_softmax(target[chosen].float() / 2.0, -1)
                q = F.log_softmax(logits[chosen].float() / 2.0, -1)
                loss = 4.0 * F.kl_div(q, p, log_target=True, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()

    return step
