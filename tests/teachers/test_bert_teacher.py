"""Our own families against transformers: states, logits and relations from the same weights."""

import pytest
import torch
import transformers

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
