"""The program of search.py: what it composes to, and how a candidate's error comes back."""

import math
from types import SimpleNamespace

import pytest

from bort.cli import search
from bort.cli.composing import compose_command
from bort.search import sweep


@pytest.mark.parametrize("expected", [4.5, None])
def test_a_job_returns_the_error_of_its_candidate(monkeypatch, tiny_search, expected):
    """NaN where it has none: external sweepers take it for a failed trial."""
    runtime = SimpleNamespace(runtime=SimpleNamespace(output_dir="runs/search/x/D1"))
    monkeypatch.setattr(search, "HydraConfig", SimpleNamespace(get=lambda: runtime))
    asked, record = [], SimpleNamespace(error=expected)
    monkeypatch.setattr(sweep, "evaluate", lambda *arguments: asked.append(arguments) or record)
    with compose_command("search", [*tiny_search, "name=x"]) as (cfg, _):
        error = search.run_composed.__wrapped__(cfg)
    assert math.isnan(error) if expected is None else error == expected
    ((run, folder, place),) = asked
    assert run.job == "search" and (str(folder), str(place)) == (run.output_dir, "runs/search/x/D1")
