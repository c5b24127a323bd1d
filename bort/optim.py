"""Muon for the encoder's matrices and AdamW for the rest as one optimizer; the schedule."""

import torch
from torch import nn

from bort.config import Optim


class MuonAdamW(torch.optim.Optimizer):
    """`torch.optim.Muon` and `torch.optim.AdamW` behind one optimizer.

    One optimizer, since with two Lightning leaves accumulation, clipping and resume to the user.
    The first parameter group is Muon's; state and groups are shared with the inner optimizers.
    """

    def __init__(self, matrices: list, groups: list[dict], config: Optim, fused: bool):
        self.muon = torch.optim.Muon(
            matrices,
            lr=config.lr * config.muon_ratio,
            weight_decay=config.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        self.adamw = adamw(groups, config, fused)
        super().__init__(self.muon.param_groups + self.adamw.param_groups, {})
        self._share()

    def _share(self) -> None:
        self.muon.param_groups, self.adamw.param_groups = (
            self.param_groups[:1],
            self.param_groups[1:],
        )
        self.muon.state = self.adamw.state = self.state

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.muon.step()
        self.adamw.step()
        return loss


def adamw(groups: list[dict], config: Optim, fused: bool) -> torch.optim.AdamW:
    """Bias-corrected AdamW over these groups, each with its own weight_decay."""
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=fused)


def build(model: nn.Module, config: Optim, fused: bool = True) -> torch.optim.Optimizer:
    """The optimizer of a `MaskedLM`.

    Weight decay touches matrices only: never LayerNorms and biases; embeddings only with
    `adamw`, as in the paper. `fused=False` where gradients are clipped under mixed precision,
    which Lightning refuses together.
    """
    matrices, decayed, plain = [], [], []
    for name, parameter in model.named_parameters():
        is_embedding = "embeddings" in name
        if parameter.ndim < 2 or (is_embedding and config.name == "muon"):
            plain.append(parameter)
        elif "layers" in name and config.name == "muon":
            matrices.append(parameter)
        else:
            decayed.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if config.name == "muon":
        return MuonAdamW(matrices, groups, config, fused)
    return adamw(groups, config, fused)


def schedule(progress: float, warmup: float) -> float:
    """Factor of the peak rate at this share of the budget: linear up for `warmup`, then to 0."""
    progress = min(max(progress, 0.0), 1.0)
    return progress / warmup if progress < warmup else (1.0 - progress) / (1.0 - warmup)
