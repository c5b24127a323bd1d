"""`python -m bort.pipeline`."""

from bort import shell
from bort.pipeline.run import main
from bort.pipeline.settings import PipelineConfig

shell.run_command(PipelineConfig, main, "bort.pipeline")
