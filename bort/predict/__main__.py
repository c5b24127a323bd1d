"""`python -m bort.predict`."""

from bort import shell
from bort.predict.run import main
from bort.predict.settings import PredictConfig

shell.run_command(PredictConfig, main, "bort.predict")
