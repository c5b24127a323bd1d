"""The callback that shows some predicted words after each validation of a pre-training."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from bort.files.writing import replace_file
from bort.runs.folder import RunFolder
from bort.training.loggers import log_samples

BEFORE, AFTER = 12, 8  # tokens that are shown around a masked word


class SamplePredictions(pl.Callback):
    """Shows a few predictions of each validation, in words, in `samples.txt` and in wandb.

    tokenizer: a transformers tokenizer. folder: where samples.txt is written. count: how many
    masked words are shown, spread over the first batch of a validation.
    """

    def __init__(self, tokenizer: Any, folder: str | Path, count: int = 5):
        self.tokenizer, self.path, self.count = tokenizer, RunFolder(folder).samples, count

    def on_validation_batch_end(
        self, trainer, pl_module, outputs: Tensor, batch: dict[str, Tensor], batch_idx: int, *_
    ) -> None:
        """Show predictions of the first batch; outputs: the predicted words (M,)."""
        if batch_idx > 0 or len(outputs) == 0 or not trainer.is_global_zero:
            return
        rows = self.read(batch, outputs)
        with replace_file(self.path) as file:
            for text, truth, prediction in rows:
                line = f"…{text}…\n  true {truth!r}, predicted {prediction!r}\n"
                file.write(line.encode())
        log_samples(trainer.loggers, rows)

    def read(self, batch: dict[str, Tensor], predictions: Tensor) -> list[list[str]]:
        """Return a row of text for some masked words: the context, the true and the predicted word.

        predictions: the predicted words (M,) at the masked positions of the batch.
        """
        inputs, mask, rows = batch["input_ids"], batch.get("attention_mask"), []
        step = max(1, len(predictions) // self.count)
        for number in range(0, len(predictions), step)[: self.count]:
            row, column = divmod(int(batch["positions"][number]), inputs.shape[1])
            size = inputs.shape[1] if mask is None else int(mask[row].sum())
            around = inputs[row, max(0, column - BEFORE) : min(size, column + AFTER)].tolist()
            text = self.tokenizer.decode(around).replace("\n", " ")
            words = (batch["labels"][number], predictions[number])
            rows.append([text, *(self.tokenizer.decode([int(word)]) for word in words)])
        return rows
