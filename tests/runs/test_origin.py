"""A model's origin is told without the folders of this machine."""

import pytest

from bort.config.fingerprint import flatten_settings
from bort.errors import BortError
from bort.files.writing import write_json
from bort.runs import origin


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("/home/ada/secret/train.csv", "train.csv"),
        ("~/secret/train.csv", "train.csv"),
        ("../secret/train.csv", "train.csv"),
        ("runs/kd_pretrain/first", "first"),
        ("runs/kd_pretrain/first/model", "first"),
        ("C:\\Users\\ada\\train.csv", "train.csv"),
        ("google/bert_uncased_L-2_H-128_A-2", "google/bert_uncased_L-2_H-128_A-2"),
        ("roberta-large", "roberta-large"),
    ],
)
def test_paths_become_names(value, name):
    assert origin.hide_folders(value) == name


def facts(settings_of, *words: str, experiment: str = "mlm_pretrain") -> dict[str, str]:
    return origin.list_origins(flatten_settings(settings_of(*words, experiment=experiment)))


def test_a_card_says_what_a_model_was_trained_on_and_by_whom(settings_of, text, tmp_path):
    plain = facts(settings_of)
    assert plain["data"] == text.name and "teacher" not in plain
    assert facts(settings_of, "data=docstrings")["data"] == origin.EMBEDDED
    own = facts(settings_of, experiment="kd_pretrain")
    assert own["teacher"] == "a teacher ⟨1,2,32,64⟩ of its own, trained on the same text"
    named = facts(settings_of, "teacher.name=/home/ada/big", experiment="kd_pretrain")
    assert named["teacher"] == "teacher big"
    csv = ["task=custom", f"data.train={tmp_path}/reviews.csv", f"data.val={tmp_path}/held.csv"]
    tuned = facts(settings_of, "data=docstrings", "model=org/base", *csv, experiment="finetune")
    assert tuned["data"] == "reviews.csv, held.csv" and tuned["base model"] == "org/base"
    free = facts(settings_of, "data=docstrings", "task=docstrings", experiment="finetune")
    assert free["data"] == origin.EMBEDDED
    line = f"an encoder ⟨1,2,16,32⟩ of its own, pre-trained on {origin.EMBEDDED}"
    assert free["base model"] == line
    # of a run that is still there, also what that one learnt from
    kd = flatten_settings(settings_of("teacher.name=roberta-large", experiment="kd_pretrain"))
    (tmp_path / "first").mkdir()
    write_json(tmp_path / "first" / "settings.json", kd)
    for place in ("first", "first/model"):
        words = ["data=docstrings", f"model={tmp_path}/{place}", *csv]
        tuned = facts(settings_of, *words, experiment="finetune")
        line = f"first, pre-trained on {text.name} by teacher roberta-large"
        assert tuned["base model"] == line


def test_a_card_says_which_model_was_trained_further(settings_of, text, named_model):
    further = facts(settings_of, f"model={named_model}")
    assert further == {"data": text.name, "base model": "named", "seed": "0"}


def test_damaged_settings_are_one_line(tmp_path):
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(BortError, match="settings.json is not valid JSON"):
        origin.read_facts(str(tmp_path))


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n", "apache-2.0"),
        ('---\nlicense: "mit"\n---\n', "mit"),
        ("---\nlibrary_name: onnx\n---\nlicense: mit\n", origin.UNKNOWN),
        ("# A model\nlicense: mit\n", origin.UNKNOWN),
        ("", origin.UNKNOWN),
        (None, origin.UNKNOWN),
    ],
)
def test_licences_are_those_that_a_card_states(tmp_path, card, licence):
    """Of a folder and of a file beside it; nothing is guessed."""
    (tmp_path / "rows.csv").write_text("text\na\n")
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    for source in (tmp_path, tmp_path / "rows.csv"):
        assert origin.read_licence(str(source)) == licence


def test_licences_of_all_that_a_model_was_made_from(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    run = {"model": str(tmp_path), "teacher.name": "nobody/has-this", "data.train": "gone.csv"}
    assert origin.list_licences(run | {"data.path": None}) == {
        "licence of the base model": "mit",
        "licence of the teacher": origin.UNKNOWN,
        "licence of the data": origin.UNKNOWN,
    }
    assert origin.list_licences({"model": None, "seed": 1}) == {}
