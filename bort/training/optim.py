"""The optimizer (Muon for the encoder's matrices, AdamW for the rest) and its schedule."""

import torch
from torch import nn

from bort.config.optim import LINEAR, OptimConfig

MOMENTUM = 0.95
# Keller Jordan's quintic, which is steepest at zero and ends with singular values of 0.7 to 1.2
QUINTIC = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
# Numbers of matrices processed at a time, so that a step does not double the memory. In bfloat16,
# whose products are cheap, a stack should also stay in the cache: 2**22 takes 85% of the time of
# 2**24 at 16 matrices of 1024 × 1024.
CHUNKS = {torch.float32: 2**24, torch.bfloat16: 2**22}


def orthogonalize(matrices: torch.Tensor, precision: torch.dtype = torch.float32) -> torch.Tensor:
    """Make a stack (n, rows, columns) of matrices semi-orthogonal, by Newton-Schulz.

    precision: of the result and of all products. `torch.bfloat16`, as in `torch.optim.Muon`, costs
    a fraction where the processor computes in it, but then the last bit of a gradient changes a
    step by 1%, and four small batches do not equal a large one.
    """
    a, b, c = QUINTIC
    x = matrices.mT if matrices.size(1) > matrices.size(2) else matrices
    norms = x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    x = x.to(precision) / norms.to(precision)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if matrices.size(1) > matrices.size(2) else x


class MuonAdamW(torch.optim.Optimizer):
    """Applies Muon to the first parameter group and `torch.optim.AdamW` to the others.

    It is one optimizer, because with two Lightning leaves accumulation, clipping and resume to the
    user. Muon is `torch.optim.Muon` with match_rms_adamw, but with products in the precision of the
    training and with one batched product per shape, because for the small models of a search the
    number of calls is the cost. The groups and the state of AdamW are shared with the inner
    optimizer.

    precision: of the products, float32 or bfloat16. Weights and momenta are float32 in both.
    """

    def __init__(
        self,
        matrices: list,
        groups: list[dict],
        config: OptimConfig,
        fused: bool,
        precision: torch.dtype = torch.float32,
    ):
        self.adamw = build_adamw(groups, config, fused)
        self.precision = precision
        muon = {
            "params": matrices,
            "lr": config.lr * config.muon_ratio,
            "weight_decay": config.weight_decay,
        }
        super().__init__([muon, *self.adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        self.adamw.param_groups = self.param_groups[1:]
        self.adamw.state = self.state

    def load_state_dict(self, state_dict: dict) -> None:
        """Load the state, and share it with the inner AdamW."""
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure=None):
        """Take one step; return the loss of the closure, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        by_shape: dict[tuple, list[nn.Parameter]] = {}
        for matrix in self.param_groups[0]["params"]:
            if matrix.grad is not None:
                by_shape.setdefault(tuple(matrix.shape), []).append(matrix)
        for (rows, columns), same in by_shape.items():
            size = max(1, CHUNKS[self.precision] // (rows * columns))
            for start in range(0, len(same), size):
                self._muon(same[start : start + size])
        self.adamw.step()
        return loss

    def _muon(self, matrices: list[nn.Parameter]) -> None:
        """Take one step of Muon for matrices of the same shape."""
        group = self.param_groups[0]
        for matrix in matrices:
            if "momentum_buffer" not in self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        gradients = [matrix.grad for matrix in matrices]
        momenta = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        nesterov = matrices[0].new_empty(len(matrices), *matrices[0].shape)
        for gradient, momentum, row in zip(gradients, momenta, nesterov, strict=True):
            torch.lerp(gradient, momentum, MOMENTUM, out=row)
        updates = orthogonalize(nesterov, self.precision)
        # gives an update the root mean square of an AdamW update, whatever the shape
        scale = 0.2 * max(matrices[0].shape) ** 0.5
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(matrices, list(updates.unbind()), alpha=-group["lr"] * scale)


def build_adamw(groups: list[dict], config: OptimConfig, fused: bool) -> torch.optim.AdamW:
    """Build a bias-corrected AdamW for these groups, each with its own weight_decay."""
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=fused)


def build_optimizer(
    model: nn.Module,
    config: OptimConfig,
    fused: bool = True,
    precision: torch.dtype = torch.float32,
) -> torch.optim.Optimizer:
    """Build the optimizer of a model.

    Weight decay applies to matrices only, never to LayerNorms and biases, and to embeddings only
    with `adamw`, as in the paper. fused: must be False under a gradient scaler, whose factor a
    fused AdamW removes only after gradients are clipped. precision: of Muon's products.
    """
    matrices, decayed, plain = [], [], []
    for name, parameter in model.named_parameters():
        is_embedding = "embeddings" in name
        # decided by name, because FSDP holds a matrix as a flat shard
        is_matrix = name.endswith(".weight") and not name.endswith("norm.weight")
        if not is_matrix or (is_embedding and config.name == "muon"):
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
        return MuonAdamW(matrices, groups, config, fused, precision)
    return build_adamw(groups, config, fused)


def clip_gradients(model: nn.Module, limit: float) -> torch.Tensor:
    """Clip the gradients of a model to a norm of at most `limit`; return their norm before.

    It does what `torch.nn.utils.clip_grad_norm_` does. On a CPU it leaves gradients within the
    limit alone, instead of multiplying each of them by 1; elsewhere the question would cost a
    synchronization.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    if norm.device.type != "cpu" or not limit / (norm + 1e-6) >= 1:  # also if the norm is NaN
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


def compute_rate_factor(progress: float, config: OptimConfig) -> float:
    """Return the share of the peak rate at `progress`, from 0 to 1 of the budget.

    It rises for `warmup`. With `schedule=linear` it then falls to 0, with `wsd` it stays at 1 and
    falls to 0 in the last share `decay`. Shares of `wsd` are rounded to 24 bits: trainings that
    have as many steps of warm-up, or are both at the peak, have the same rate in every bit,
    however many steps they have in all.
    """
    progress = min(max(progress, 0.0), 1.0)
    if config.schedule == LINEAR:
        rise, fall = config.warmup, 1.0 - config.warmup
        return progress / rise if progress < rise else (1.0 - progress) / fall
    share = progress / config.warmup if progress < config.warmup else 1.0
    return round(2**24 * min(share, (1.0 - progress) / config.decay)) / 2**24


def count_peak_steps(steps: int, config: OptimConfig) -> int:
    """Count the first steps, of so many in all, whose rates a longer `wsd` training has, too.

    They are those of the warm-up and those at the peak, before the rate falls.
    """
    for count in range(steps, 0, -1):
        progress = count / (steps + 1)  # as in `StepModule`, of the last one of them
        if progress < 1 - config.decay or compute_rate_factor(progress, config) == 1:
            return count
    return 0
