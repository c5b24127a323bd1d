"""The page of a benchmark."""

from bort.benchmark.report import COLUMNS, format_cells
from bort.benchmark.rows import BenchmarkRow
from bort.benchmark.settings import BenchmarkConfig
from bort.config.search import register
from bort.models.arch import Arch

register(BenchmarkConfig)


SMALL = Arch(2, 2, 32, 64)


ROW = BenchmarkRow(
    **dict(name="x", measures="encoder", engine="onnx_int8", batch=1, length=128, threads=1),
    **dict(parameters=4369152, disk_bytes=17476608, median_ms=10.24, low_ms=8.23, high_ms=12.26),
    **dict(sequences_per_s=97.6, ratio=1.0, arch=SMALL, vocabulary=30522),
)


def test_the_table_of_the_page_is_in_the_units_of_the_console():
    """Raw bytes and names of engines are for the CSV file; what matters stands in front."""
    cells = [cell.replace("\N{NO-BREAK SPACE}", " ") for cell in format_cells(ROW)]
    assert cells[:5] == ["x", "ONNX int8", "1 × 128", "10.24", "1.00 ×"]
    assert cells[5:9] == ["8.23–12.26", "97.6", "4,369,152", "17.48 MB"]
    assert cells[9:] == ["–", "encoder", "⟨2,2,32,64⟩"]
    assert len(cells) == len(COLUMNS)
