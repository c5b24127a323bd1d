"""A stage's process: its exit code, and the lock that it holds."""

import os
import sys

import pytest

from bort.pipeline.process import follow


@pytest.mark.parametrize(
    ("code", "expected"),
    [("pass", 0), ("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 15)", 143)],
)
def test_exit_codes_are_those_of_a_shell(tmp_path, code, expected):
    with (tmp_path / "lock").open("w") as lock:
        assert follow([sys.executable, "-c", code], lock.fileno()) == expected


def test_the_process_has_the_lock_open_and_a_group_of_its_own(tmp_path):
    with (tmp_path / "lock").open("w") as lock:
        number = lock.fileno()
        code = f"import os; os.write({number}, b'%d' % os.getpgid(0))"
        assert follow([sys.executable, "-c", code], number) == 0
    assert int((tmp_path / "lock").read_text()) != os.getpgid(0)
