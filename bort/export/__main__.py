"""`python -m bort.export`."""

from bort import shell
from bort.export.settings import ExportConfig


def main(settings: ExportConfig) -> None:
    """Export a model as the command line says."""
    with shell.loading(shell.program()):  # torch, only now
        from bort.export.run import run_export
    run_export(settings)


shell.run_command(ExportConfig, main, "bort.export")
