"""Notes about jobs that did not end well."""

from bort.runs.failures import note_failure, take_failures


def test_notes_are_taken_once(tmp_path):
    for job in ("0", "11"):
        note_failure(tmp_path / "sweep" / job)
    assert take_failures(tmp_path / "sweep") == {"0", "11"}
    assert take_failures(tmp_path / "sweep") == set()
    assert list((tmp_path / "sweep").iterdir()) == []


def test_a_note_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "sweep").touch()
    note_failure(tmp_path / "sweep" / "0")
