"""Families that transformers opens: each row of the table, on a tiny random model."""

import pytest
import torch
from teacher_folders import LENGTH, make_folder
from transformers import AutoModel

from bort.errors import BortError
from bort.models.bert import ModelConfig
from bort.models.hf_config import OWN_FAMILIES
from bort.models.initialization import build_model
from bort.pretraining.losses import kd_loss
from bort.teachers.families import FAMILIES
from bort.teachers.opening import open_teacher

WRAPPED = [kind for kind in FAMILIES if kind not in OWN_FAMILIES]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folder and the model of transformers of each family, made when it is first asked for."""
    made = {}

    def make(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp("teachers") / kind
            made[kind] = folder, make_folder(folder, kind)
        return made[kind]

    return make


def make_batch(teacher, lengths=(9, 5)):
    """Ids of two texts, padded, and their mask."""
    ids = torch.arange(5, 5 + 2 * lengths[0]).reshape(2, -1) % teacher.vocab_size
    mask = (torch.arange(lengths[0]) < torch.tensor(lengths)[:, None]).long()
    return torch.where(mask.bool(), ids, teacher.pad_id), mask


@pytest.mark.parametrize("kind", WRAPPED)
def test_each_family_gives_what_the_table_says(kind, folders):
    folder, model = folders(kind)
    teacher = open_teacher(folder)
    expected = {"logits", "hidden"} | ({"relations"} if FAMILIES[kind].projections else set())
    assert teacher.gives == expected
    assert (teacher.arch.depth, teacher.arch.heads, teacher.arch.hidden) == (2, 2, 16)
    assert teacher.arch.intermediate == 24
    assert teacher.vocab_size == model.config.vocab_size
    assert teacher.limit == LENGTH - FAMILIES[kind].find_offset(teacher.pad_id)
    ids, mask = make_batch(teacher)
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=mask)
        states = model.base_model(input_ids=ids, attention_mask=mask)[0]
    positions = torch.tensor([1, 4, 10, 12])
    torch.testing.assert_close(teacher.compute_states(ids, mask), states)
    logits = teacher.compute_logits(ids, positions, mask)
    torch.testing.assert_close(logits, output.logits.flatten(0, 1)[positions])
    kept = teacher.compute_head_states(ids, positions, mask)
    assert kept.shape == (4, teacher.head_width)
    torch.testing.assert_close(teacher.decode(kept), logits)


@pytest.mark.parametrize("kind", FAMILIES)
def test_padding_and_batches_change_nothing(kind, folders):
    teacher = open_teacher(folders(kind)[0])
    ids, mask = make_batch(teacher)
    together = teacher.compute_states(ids, mask)
    alone = teacher.compute_states(ids[1:, :5])
    torch.testing.assert_close(together[1:, :5], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(teacher.compute_states(ids)[1:, :5], alone, atol=1e-3)  # no mask


@pytest.mark.parametrize("kind", [kind for kind in WRAPPED if FAMILIES[kind].projections])
def test_relations_are_the_projections_of_one_layer(kind, folders):
    teacher = open_teacher(folders(kind)[0])
    ids, mask = make_batch(teacher)
    last = teacher.compute_relations(ids, mask)
    first = teacher.compute_relations(ids, mask, layer=0)
    for tensor in (*last, *first):
        assert tensor.shape == (2, 9, 2, 8)
    assert all(map(torch.equal, last, teacher.compute_relations(ids, mask, layer=1)))
    assert not torch.equal(last.query, first.query) and not torch.equal(last.query, last.key)
    states, relations = teacher.compute_states_and_relations(ids, mask)
    assert torch.equal(states, teacher.compute_states(ids, mask))
    assert all(map(torch.equal, relations, last))
    with pytest.raises(IndexError):
        teacher.compute_relations(ids, mask, layer=2)


# Their attention is that of queries and keys alone: positions are added to the words.
PLAIN = "distilbert electra albert ernie data2vec-text rembert megatron-bert roberta-prelayernorm"


@pytest.mark.parametrize("kind", [*PLAIN.split(), "xlm-roberta-xl"])
@pytest.mark.parametrize("layer", [0, 1])
def test_queries_and_keys_give_the_attention_of_their_layer(kind, layer, folders):
    folder, _ = folders(kind)
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    teacher = open_teacher(folder)
    ids, mask = make_batch(teacher)
    with torch.no_grad():
        attention = model(ids, attention_mask=mask, output_attentions=True).attentions[layer]
    query, key, _ = teacher.compute_relations(ids, mask, layer)
    scores = torch.einsum("bsak,btak->bast", query, key) / query.shape[-1] ** 0.5
    scores = scores.masked_fill(mask[:, None, None] == 0, -torch.inf)
    torch.testing.assert_close(scores.softmax(-1), attention, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", FAMILIES)
def test_an_input_that_is_too_long_is_one_line(kind, folders):
    teacher = open_teacher(folders(kind)[0])
    ids = torch.full((1, teacher.limit), 6)
    assert torch.isfinite(teacher.compute_states(ids)).all()
    with pytest.raises(BortError, match=f"longer than the .*limit of {teacher.limit}"):
        teacher.compute_states(torch.full((1, teacher.limit + 1), 6))


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_student_learns_from_each_family(kind, folders):
    teacher = open_teacher(folders(kind)[0])
    sizes = dict(vocab_size=teacher.vocab_size, positions=16)
    student = build_model(ModelConfig(1, 2, 32, 64, **sizes))
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    ids, positions = make_batch(teacher)[0], torch.tensor([1, 4, 10, 12])
    target, losses = teacher.compute_logits(ids, positions), []
    for _ in range(20):
        loss = kd_loss(student(ids, positions=positions), target, 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("kind", WRAPPED)
def test_tables_of_embeddings_are_added_up(kind, folders):
    """Words, positions and types, normalized, are the states before the first layer."""
    folder, model = folders(kind)
    tables, ids = open_teacher(folder).embeddings, torch.tensor([[5, 6, 7, 8]])
    added = tables.words[ids]
    if tables.positions is not None:
        added = added + tables.positions[:4]
    if tables.types is not None:
        added = added + tables.types[0]
    if tables.norm is not None:
        added = tables.norm(added)
    embeddings = model.base_model.embeddings
    first = []
    with torch.no_grad(), embeddings.register_forward_hook(lambda *args: first.append(args[2])):
        model(input_ids=ids)
    states = first[0][0] if isinstance(first[0], tuple) else first[0]
    if kind == "deberta":  # its normalization is of its own kind, and none that a student has
        assert tables.norm is None
    else:
        torch.testing.assert_close(added, states)
    assert tables.words.shape[0] == len(tables.decoder_bias) == model.config.vocab_size


@pytest.mark.parametrize("kind", WRAPPED)
def test_copies_in_bf16_are_nearly_the_same(kind, folders):
    teacher = open_teacher(folders(kind)[0])
    copy, (ids, mask) = teacher.copy_in_bf16(), make_batch(teacher)
    positions = torch.tensor([1, 4, 10, 12])
    with torch.autocast("cpu", torch.bfloat16):
        states = copy.compute_states(ids, mask).float()
        logits = copy.compute_logits(ids, positions, mask).float()
    exact = teacher.compute_states(ids, mask)[mask.bool()]
    assert torch.cosine_similarity(states[mask.bool()], exact, dim=-1).min() > 0.99
    exact = teacher.compute_logits(ids, positions, mask)
    assert torch.cosine_similarity(logits, exact, dim=-1).min() > 0.99
    assert next(teacher.model.parameters()).dtype == torch.float32 and copy.gives == teacher.gives
    assert copy.in_float32 == (kind == "deberta")  # whose masks have numbers too large for bf16


@pytest.mark.parametrize("kind", WRAPPED)
def test_some_of_the_words_are_read_and_guessed_as_before(kind, folders):
    full = open_teacher(folders(kind)[0])
    words = torch.tensor([n for n in range(full.vocab_size) if n == full.pad_id or n % 3 == 1])
    teacher = full.select_words(words)
    assert teacher.vocab_size == len(words) and words[teacher.pad_id] == full.pad_id
    assert teacher.gives == full.gives and teacher.head_width == full.head_width
    ids, mask = make_batch(teacher)
    positions = torch.tensor([1, 4, 10, 12])
    before = full.compute_logits(words[ids], positions, mask)
    after = teacher.compute_logits(ids, positions, mask)
    torch.testing.assert_close(after, before[:, words])
    states = teacher.compute_head_states(ids, positions, mask)
    torch.testing.assert_close(teacher.decode(states), after)
    torch.testing.assert_close(
        teacher.compute_states(ids, mask), full.compute_states(words[ids], mask)
    )
    tables = teacher.embeddings
    torch.testing.assert_close(tables.words, full.embeddings.words[words])
    if tables.positions is not None:
        torch.testing.assert_close(tables.positions, full.embeddings.positions)
    lost = full.parameter_count - teacher.parameter_count
    biases = 0 if full.decoder.bias is None else 1
    tied = full.decoder.weight is full.model.get_input_embeddings().weight
    width = tables.words.shape[1] + biases + (0 if tied else full.head_width)
    assert lost == (full.vocab_size - len(words)) * width
    again = teacher.select_words(torch.arange(0, len(words)))
    torch.testing.assert_close(again.compute_logits(ids, positions, mask), after)
    copied = teacher.copy_in_bf16()
    assert copied.vocab_size == len(words) and copied.pad_id == teacher.pad_id
    torch.testing.assert_close(full.compute_logits(words[ids], positions, mask), before)
