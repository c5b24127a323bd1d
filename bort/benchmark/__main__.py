"""`python -m bort.benchmark`."""

from bort import shell
from bort.benchmark.run import compose_settings, run
from bort.benchmark.settings import BenchmarkConfig

shell.run_command(BenchmarkConfig, run, "bort.benchmark", parse=compose_settings)
