"""Our own families against transformers: states, logits and relations from the same weights."""

import pytest
import torch
import transformers

from bort.errors import BortError
from bort.models.bert import ModelConfig
from bort.models.initialization import build_model
from bort.teachers.bert_teacher import BertTeacher
from bort.teachers.opening import open_teacher

SIZES = dict(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=18,
    pad_token_id=1,
)
OWN = {
    "bert": (transformers.BertConfig, transformers.BertForMaskedLM),
    "roberta": (transformers.RobertaConfig, transformers.RobertaForMaskedLM),
    "xlm-roberta": (transformers.XLMRobertaConfig, transformers.XLMRobertaForMaskedLM),
    "camembert": (transformers.CamembertConfig, transformers.CamembertForMaskedLM),
}
IDS = torch.tensor([[0, 5, 6, 7, 8, 9, 2], [0, 11, 12, 2, 1, 1, 1]])
MASK = (IDS != 1).long()
POSITIONS = torch.tensor([1, 3, 8, 9])


def randomise(model, std: float = 0.5):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, std, generator=generator)
    return model.eval()


@pytest.mark.parametrize("kind", OWN)
def test_own_families_give_the_numbers_of_transformers(kind, tmp_path):
    config, model_class = OWN[kind]
    model = randomise(model_class(config(**SIZES)))
    model.save_pretrained(tmp_path)
    teacher = open_teacher(tmp_path)
    assert teacher.gives == {"logits", "hidden", "relations"}
    assert teacher.limit == (18 if kind == "bert" else 16)
    queries = []
    self_attention = model.base_model.encoder.layer[1].attention.self
    with (
        torch.no_grad(),
        self_attention.query.register_forward_hook(
            lambda module, inputs, output: queries.append(output)
        ),
    ):
        output = model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True)
    real = MASK.bool()
    close = dict(rtol=1e-5, atol=1e-5 * output.logits.abs().max().item())
    states = teacher.compute_states(IDS, MASK)
    torch.testing.assert_close(states[real], output.hidden_states[-1][real], **close)
    logits = teacher.compute_logits(IDS, POSITIONS, MASK)
    torch.testing.assert_close(logits, output.logits.flatten(0, 1)[POSITIONS], **close)
    decoded = teacher.decode(teacher.compute_head_states(IDS, POSITIONS, MASK))
    torch.testing.assert_close(decoded, logits, **close)
    relations = teacher.compute_relations(IDS, MASK, layer=1)
    assert relations.query.shape == relations.key.shape == (2, 7, 2, 8)
    query = relations.query.flatten(2)[real]
    torch.testing.assert_close(query, queries[0][real], **close)
    same = teacher.compute_relations(IDS, MASK, layer=-2)
    assert all(map(torch.equal, relations, same))
    for layer in (1, -1):
        both = teacher.compute_states_and_relations(IDS, MASK, layer)
        torch.testing.assert_close(both[0][real], output.hidden_states[-1][real], **close)
        assert all(map(torch.equal, both[1], teacher.compute_relations(IDS, MASK, layer)))


def test_a_teacher_learns_nothing():
    model = build_model(ModelConfig(1, 2, 8, 12, vocab_size=20, positions=8, dropout=0.5)).train()
    teacher = BertTeacher(model)
    ids = torch.tensor([[3, 4, 5]])
    first = teacher.compute_states(ids)
    assert torch.equal(first, teacher.compute_states(ids)) and not first.requires_grad
    assert not [weight for weight in model.parameters() if weight.requires_grad]
    assert teacher.parameter_count == sum(weight.numel() for weight in model.parameters())


def test_tables_of_embeddings_are_those_of_the_model():
    config = ModelConfig(1, 2, 8, 12, vocab_size=20, positions=8, position_offset=2, type_vocab=1)
    model = build_model(config)
    tables = BertTeacher(model).embeddings
    assert torch.equal(tables.words, model.encoder.embeddings.words.weight)
    assert tables.positions.shape == (8, 8) and tables.types.shape == (1, 8)
    assert torch.equal(tables.positions[0], model.encoder.embeddings.positions.weight[2])
    assert tables.norm is model.encoder.embeddings.norm
    assert torch.equal(tables.decoder_bias, model.head.bias)
    assert BertTeacher(model, has_head=False).embeddings.decoder_bias is None


def test_a_copy_in_bf16_is_nearly_the_same():
    teacher = BertTeacher(build_model(ModelConfig(2, 2, 16, 32, vocab_size=20, positions=8)))
    copy, ids = teacher.copy_in_bf16(), torch.tensor([[3, 4, 5, 6]])
    with torch.autocast("cpu", torch.bfloat16):
        states = copy.compute_states(ids).float()
    cosine = torch.cosine_similarity(states, teacher.compute_states(ids), dim=-1)
    assert cosine.min() > 0.999
    assert copy.gives == teacher.gives


@pytest.mark.parametrize(("kind", "dropped"), [("bert", 10), ("roberta", 10), ("camembert", 0)])
def test_some_of_the_words_are_read_and_guessed_as_before(kind, dropped, tmp_path):
    """Also where padding gets another id, and with it the positions another row."""
    config, model_class = OWN[kind]
    model = randomise(model_class(config(**SIZES)))
    model.save_pretrained(tmp_path)
    full = open_teacher(tmp_path)
    words = torch.tensor([n for n in range(50) if n != dropped and n % 7 != 3])
    teacher = full.select_words(words)
    assert teacher.vocab_size == len(words) < full.vocab_size
    assert teacher.pad_id == (1 if dropped else 0) and teacher.limit == full.limit
    assert teacher.gives == full.gives and teacher.name == full.name and teacher.arch == full.arch
    ids = torch.tensor([[0, 4, 5, 6, 7, 1], [9, 11, 2, 1, 1, 1]])
    ids[ids == 0] = 2
    pad = teacher.pad_id
    ids = torch.where(ids == 1, pad, ids)
    mask, positions = (ids != pad).long(), torch.tensor([1, 3, 8])
    before = full.compute_logits(words[ids], positions, mask)
    after = teacher.compute_logits(ids, positions, mask)
    torch.testing.assert_close(after, before[:, words])
    torch.testing.assert_close(
        teacher.compute_states(ids, mask), full.compute_states(words[ids], mask)
    )
    states = teacher.compute_head_states(ids, positions, mask)
    torch.testing.assert_close(teacher.decode(states), after)
    for mine, whole in zip(
        teacher.compute_relations(ids, mask), full.compute_relations(words[ids], mask), strict=True
    ):
        torch.testing.assert_close(mine, whole)
    tables, before = teacher.embeddings, full.embeddings
    torch.testing.assert_close(tables.words, before.words[words])
    torch.testing.assert_close(tables.decoder_bias, before.decoder_bias[words])
    torch.testing.assert_close(tables.positions, before.positions)
    unused = 50 - len(words)
    shift = 0 if dropped else 1
    assert full.parameter_count - teacher.parameter_count == unused * 17 + shift * 16


def test_padding_has_to_be_among_the_words():
    config = ModelConfig(1, 1, 4, 8, vocab_size=9, positions=8, pad_id=3)
    with pytest.raises(BortError, match="padding is the word 3 of the teacher, but no special"):
        BertTeacher(build_model(config)).select_words(torch.tensor([0, 1, 4]))
