"""Settings of Agora."""

import pytest

from bort.config.agora import AgoraConfig, ThetaConfig
from bort.errors import BortError

MESSAGES = [
    (lambda: ThetaConfig(lr=[]), "agora.grid.lr=[] leaves nothing to train; give it values"),
    (lambda: ThetaConfig(seed=[1, 1]), "agora.grid.seed=[1, 1] names a value twice"),
    (lambda: ThetaConfig(lr_factor=[1, 0]), "agora.grid.lr_factor=[1, 0] must be above 0"),
    (lambda: ThetaConfig(weight_decay=[-1]), "agora.grid.weight_decay=[-1] must be at least 0"),
    (lambda: ThetaConfig(warmup=[0, 1]), "agora.grid.warmup=[0, 1] must be below 1"),
    (
        lambda: AgoraConfig(prune="halve"),
        "agora.prune=halve is unknown; use half, lcs; did you mean 'half'?",
    ),
    (
        lambda: AgoraConfig(generator="mlms"),
        "agora.generator=mlms is unknown; use mlm, nearest, edit, pool; did you mean 'mlm'?",
    ),
    (
        lambda: AgoraConfig(mistakes="training"),
        "agora.mistakes=training is unknown; use train, eval; did you mean 'train'?",
    ),
    (
        lambda: AgoraConfig(labels="softer"),
        "agora.labels=softer is unknown; use hard, soft; did you mean 'soft'?",
    ),
    (lambda: AgoraConfig(replays=-1), "agora.replays=-1 must be at least 0"),
    (lambda: AgoraConfig(rounds=0), "agora.rounds=0 must be at least 1"),
    (lambda: AgoraConfig(samples=0), "agora.samples=0 must be at least 1"),
    (lambda: AgoraConfig(confidence=1.0), "agora.confidence=1 must be at least 0 and below 1"),
    (lambda: AgoraConfig(guard=-0.1), "agora.guard=-0.1 must be at least 0 and below 1"),
    (lambda: AgoraConfig(rate=0), "agora.rate=0 must be above 0 and below 1"),
    (lambda: AgoraConfig(eval_fraction=1), "agora.eval_fraction=1 must be above 0 and below 1"),
]


@pytest.mark.parametrize(("wrong", "message"), MESSAGES, ids=[m for _, m in MESSAGES])
def test_messages(wrong, message):
    with pytest.raises(BortError) as error:
        wrong()
    assert str(error.value) == message
