"""`python -m bort.benchmark`."""

from bort import shell
from bort.benchmark.run import compose_settings, run
from bort.config.benchmark import BenchmarkConfig

shell.run_command(BenchmarkConfig, run, "bort.benchmark", parse=compose_settings)
