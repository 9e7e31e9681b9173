"""Students: a teacher's layers in a folder of their own."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_families import make
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from textsmooth.schemas.errors import ConflictError, StorageError, TeacherError, UsageError
from textsmooth.schemas.smoothing import Smoothing
from textsmooth.schemas.task_kinds import task_kind
from textsmooth.stages.dataset.collate import SmoothedCollator
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.models.model_folder import model_folder, new_model_folder
from textsmooth.stages.models.student import check_token_map, load_student, positions
from textsmooth.stages.models.student_init import fresh_student, make_student
from textsmooth.stages.training.losses import objective_for
from textsmooth.stages.training.soft_embedding import SoftEmbedding
from textsmooth.stages.training.student_forward import forward


@pytest.fixture(scope="module")
def teacher(kit, tmp_path_factory):
    return kit.save_masked_lm(tmp_path_factory.mktemp("teacher") / "t")


@pytest.mark.parametrize(
    ("family", "stack"), [("bert", "encoder.layer"), ("distilbert", "transformer.layer"), ("roberta", "encoder.layer")]
)
def test_a_student_has_the_chosen_layers(kit, tmp_path, family, stack):
    teacher = kit.save_masked_lm(tmp_path / "t", family)
    out = make_student(teacher, (0, 2), tmp_path / "s")
    whole, some = AutoModelForMaskedLM.from_pretrained(teacher), AutoModelForMaskedLM.from_pretrained(out)
    assert some.config.num_hidden_layers == 2
    prefix = f"{whole.base_model_prefix}.{stack}."
    for name, value in some.state_dict().items():
        origin = name.replace(f"{prefix}1.", f"{prefix}2.")
        torch.testing.assert_close(value, whole.state_dict()[origin], atol=0, rtol=0)
    assert not list(out.glob("*.bin"))
    assert AutoTokenizer.from_pretrained(out)("w5 w6")["input_ids"] == [2, 5, 6, 3]
    classifier = AutoModelForSequenceClassification.from_pretrained(out, num_labels=3)
    assert classifier.num_labels == 3


def test_layers_of_several_kinds_keep_their_kind(kit, tmp_path):
    """ModernBERT attends to all of the row in some layers only, and its configuration says in which."""
    from transformers import AutoModelForMaskedLM, ModernBertConfig

    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": kit.VOCAB}
    tokens = {"pad_token_id": 0, "cls_token_id": 1, "bos_token_id": 1, "sep_token_id": 2, "eos_token_id": 2}
    config = ModernBertConfig(**sizes, **tokens, max_position_embeddings=40)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path / "teacher")
    kit.make_tokenizer().save_pretrained(tmp_path / "teacher")
    made = make_student(tmp_path / "teacher", (3, 1), tmp_path / "student")
    student = AutoModelForMaskedLM.from_pretrained(made)
    assert student.config.layer_types == [config.layer_types[3], config.layer_types[1]]
    assert len(set(student.config.layer_types)) == 2
    assert (made / "model.safetensors").stat().st_mode == (made / "config.json").stat().st_mode


def test_a_layer_that_cannot_stand_in_another_place_is_refused(kit, tmp_path):
    """ModernBERT's first layer has no norm of its own in front."""
    make("modernbert", tmp_path / "t")
    kit.make_tokenizer().save_pretrained(tmp_path / "t")
    with pytest.raises(UsageError, match=r"layers 1,0: the student would have no model.layers.1.attn_norm.weight: .*; put layer 0 first"):
        make_student(tmp_path / "t", (1, 0), tmp_path / "s")
    make_student(tmp_path / "t", (0, 1), tmp_path / "s")


def test_layers_that_share_weights_are_told_apart_from_a_stack(kit, tmp_path):
    make("albert", tmp_path / "t")
    kit.make_tokenizer().save_pretrained(tmp_path / "t")
    with pytest.raises(TeacherError, match=r"the layers of albert share their weights, so none can be chosen: .* --fresh"):
        make_student(tmp_path / "t", (0,), tmp_path / "s")


@pytest.mark.parametrize(
    "family", ["bert", "roberta", "distilbert", "electra", "albert", "mpnet", "deberta-v2", "modernbert", "xlm-roberta"]
)
def test_a_fresh_student_is_of_the_family_in_other_sizes(kit, tmp_path, family):
    old = make(family, tmp_path / "t")
    kit.make_tokenizer().save_pretrained(tmp_path / "t")
    sizes = {"num_layers": 3, "hidden_size": 32, "num_heads": 4}
    made = fresh_student(tmp_path / "t", tmp_path / "s", **sizes)
    student = AutoModelForMaskedLM.from_pretrained(made)
    config = student.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (3, 32, 4)
    assert config.vocab_size == old.vocab_size and config.model_type == old.model_type
    inner = "hidden_dim" if family == "distilbert" else "intermediate_size"
    assert getattr(config, inner) == getattr(old, inner) * 32 // 24
    again = fresh_student(tmp_path / "t", tmp_path / "again", **sizes, intermediate_size=40)
    assert getattr(AutoConfig.from_pretrained(again), inner) == 40
    same, other = (fresh_student(tmp_path / "t", tmp_path / f"seed{seed}", **sizes, seed=seed) for seed in (0, 1))
    weights = [(folder / "model.safetensors").read_bytes() for folder in (made, same, other)]
    assert weights[0] == weights[1] != weights[2]
    assert AutoTokenizer.from_pretrained(made).get_vocab() == kit.make_tokenizer().get_vocab()
    load_student(made, head="class", label_names=("a", "b"))


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"num_heads": 3}, "hidden-size 32 is not a multiple of num-heads 3"),
        ({"num_layers": 0}, "num-layers must be a whole number of at least 1, not 0"),
        ({"intermediate_size": -1}, "intermediate-size must be"),
    ],
)
def test_impossible_sizes_are_refused(teacher, tmp_path, sizes, said):
    with pytest.raises(UsageError, match=said):
        fresh_student(teacher, tmp_path / "s", **{"num_layers": 1, "hidden_size": 32, "num_heads": 2, **sizes})
    with pytest.raises(UsageError, match="is the teacher itself"):
        fresh_student(teacher, teacher, num_layers=1, hidden_size=32, num_heads=2, overwrite=True)
    assert not list(tmp_path.iterdir())


def test_a_family_whose_sizes_are_not_set_like_this_is_named(kit, tmp_path):
    make("funnel", tmp_path / "t")
    kit.make_tokenizer().save_pretrained(tmp_path / "t")
    with pytest.raises(TeacherError, match=r"cannot make a fresh student of the family of .*; use --layers instead"):
        fresh_student(tmp_path / "t", tmp_path / "s", num_layers=3, hidden_size=32, num_heads=2)


def test_layers_may_be_in_another_order(teacher, tmp_path):
    out = make_student(teacher, (2, 0, 1), tmp_path / "s")
    whole, some = AutoModelForMaskedLM.from_pretrained(teacher), AutoModelForMaskedLM.from_pretrained(out)
    names = {f"bert.encoder.layer.{i}.output.dense.weight": f"bert.encoder.layer.{j}.output.dense.weight" for i, j in ((0, 2), (2, 1))}
    for mine, theirs in names.items():
        torch.testing.assert_close(some.state_dict()[mine], whole.state_dict()[theirs])


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ((3,), "layer 3 is not in the teacher: it has layers 0 to 2"),
        ((-1,), "layer -1 is not in the teacher"),
        ((0, 0), "layers 0,0: a layer is given twice"),
        ((), "at least one layer"),
    ],
)
def test_impossible_layers_are_refused(teacher, tmp_path, layers, said):
    with pytest.raises(UsageError, match=said):
        make_student(teacher, layers, tmp_path / "s")
    assert not list(tmp_path.iterdir())


def test_a_classifier_is_no_teacher(teacher, tmp_path):
    AutoModelForSequenceClassification.from_pretrained(teacher).save_pretrained(tmp_path / "c")
    AutoTokenizer.from_pretrained(teacher).save_pretrained(tmp_path / "c")
    with pytest.raises(TeacherError, match="is missing weights"):
        make_student(tmp_path / "c", (0,), tmp_path / "s")


def test_the_teacher_is_never_replaced(teacher):
    with pytest.raises(UsageError, match="is the teacher itself"):
        make_student(teacher, (0,), teacher, overwrite=True)


def test_an_output_folder_is_replaced_only_when_asked_and_a_model(teacher, tmp_path):
    out = make_student(teacher, (0, 1), tmp_path / "s")
    with pytest.raises(ConflictError, match=r"is not empty; .* --overwrite"):
        make_student(teacher, (0,), out)
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 2
    make_student(teacher, (0,), out, overwrite=True)
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 1
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("years of work")
    with pytest.raises(ConflictError, match="no model, --overwrite does not delete it"):
        make_student(teacher, (0,), tmp_path / "thesis", overwrite=True)
    with pytest.raises(ConflictError, match="is a file"):
        make_student(teacher, (0,), tmp_path / "thesis" / "chapter", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s", "thesis"]


def test_a_failed_save_leaves_everything_as_it_was(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("old")
    with pytest.raises(KeyboardInterrupt), new_model_folder(tmp_path / "m", overwrite=True) as folder:
        (folder / "config.json").write_text("new")
        raise KeyboardInterrupt
    assert (tmp_path / "m" / "config.json").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="choose another --out"), new_model_folder(tmp_path / "file" / "m", overwrite=False):
        pass


def test_too_little_room_is_told_before_the_work(tmp_path):
    with pytest.raises(StorageError, match=r"bytes are needed, [\d,]+ are free; make room"):  # noqa: SIM117
        with new_model_folder(tmp_path / "m", overwrite=False, needed_bytes=10**18):
            pytest.fail("went on")
    with pytest.raises(StorageError, match="No space left on device"), new_model_folder(tmp_path / "m", overwrite=False):
        raise OSError(errno.ENOSPC, "full")
    assert not list(tmp_path.iterdir())


def test_the_token_map_is_compared_by_content(kit, smoothed, teacher, tmp_path):
    manifest = SmoothedDataset(smoothed, "train").manifest
    check_token_map(teacher, manifest)
    other = kit.save_masked_lm(tmp_path / "t", words=kit.VOCAB - 1)
    with pytest.raises(TeacherError, match="another token -> id map than the dataset's teacher tiny"):
        check_token_map(other, manifest)


def test_a_student_gets_a_head_for_the_labels(teacher, tmp_path):
    torch.manual_seed(5)
    first = load_student(teacher, label_names=("no", "yes", "maybe"), label_kind="class")
    assert first.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    torch.manual_seed(5)
    again = load_student(teacher, label_names=("no", "yes", "maybe"), label_kind="class")
    torch.testing.assert_close(first.classifier.weight, again.classifier.weight, atol=0, rtol=0)
    first.save_pretrained(tmp_path / "c")
    kept = load_student(tmp_path / "c", label_names=("a", "b", "c"), label_kind="class")
    torch.testing.assert_close(kept.classifier.weight, first.classifier.weight, atol=0, rtol=0)
    assert load_student(tmp_path / "c", label_names=("a", "b"), label_kind="class").classifier.weight.shape == (2, 16)
    assert load_student(tmp_path / "c", label_names=(), label_kind="value").config.problem_type == "regression"
    assert load_student(tmp_path / "c", head="span").qa_outputs.weight.shape == (2, 16)


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_a_classifiers_outputs_follow_the_datasets_classes(kit, tmp_path, family):
    """It had learned them in another order: what it says of a text stays the same."""
    kit.save_masked_lm(tmp_path / "t", family)
    saved = load_student(tmp_path / "t", label_names=("entailment", "neutral", "contradiction"), label_kind="class").eval()
    saved.save_pretrained(tmp_path / "c")
    again = load_student(tmp_path / "c", label_names=("Contradiction", "entailment", "neutral"), label_kind="class").eval()
    assert again.config.id2label == {0: "Contradiction", 1: "entailment", 2: "neutral"}
    ids = torch.tensor([[2, 7, 9, 3]])
    torch.testing.assert_close(again(ids).logits, saved(ids).logits[:, [2, 0, 1]])


NAMED = ["bert", "roberta", "distilbert", "electra", "albert", "mpnet", "deberta-v2", "modernbert", "camembert", "xlm-roberta"]


@pytest.mark.parametrize("family", NAMED)
def test_every_family_is_a_student_with_every_head(kit, tmp_path, family):
    """From a masked LM, and from an encoder without any head; its loss on smoothed input moves its embeddings."""
    make(family, tmp_path / "masked", pad_token_id=kit.PAD)
    AutoModel.from_pretrained(tmp_path / "masked").save_pretrained(tmp_path / "bare")
    block = kit.random_rows(1, 6).block
    spans = replace(block, label=None, spans=np.ones((6, 2), np.int32))
    torch.manual_seed(0)
    for source in ("masked", "bare"):
        for head in ("class", "value", "span", "mlm"):
            student = load_student(tmp_path / source, head=head, label_names=("even", "odd"), dropout=0.0)
            plain, mixed = (
                SmoothedCollator(pad_id=kit.PAD, smoothing=Smoothing(lam=lam))(spans if head == "span" else block) for lam in (0.0, 0.5)
            )
            if head == "mlm":
                assert forward(student, plain, None).shape[2] >= kit.VOCAB
                continue
            soft = SoftEmbedding(student.get_input_embeddings(), vocab_size=kit.VOCAB)
            own = plain.attention_mask.bool() if head == "span" else slice(None)  # logits of pads mean nothing
            torch.testing.assert_close(forward(student, plain, soft)[own], forward(student, plain, None)[own], rtol=1e-4, atol=1e-4)
            if head == "value":
                mixed = replace(mixed, labels=mixed.labels.float())
            objective_for("task", task_kind(head)).loss(student, mixed, soft).backward()
            assert student.get_input_embeddings().weight.grad.abs().sum() > 0


def test_an_encoder_that_lacks_weights_is_no_student_whatever_the_head(kit, tmp_path):
    from safetensors.torch import load_file, save_file

    kit.save_masked_lm(tmp_path / "t")
    file = tmp_path / "t" / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "layer.1.output.dense" not in k}, file, {"format": "pt"})
    for head in ("class", "span", "mlm"):
        with pytest.raises(TeacherError, match=r"is missing weights that .* needs \(bert.encoder.layer.1.output.dense"):
            load_student(tmp_path / "t", head=head, label_names=("a", "b"))


def test_a_family_without_the_head_is_named(tmp_path):
    AutoConfig.for_model("t5").save_pretrained(tmp_path / "t5")
    with pytest.raises(TeacherError, match=r"cannot use the model in .*t5 as a student: .*") as caught:
        load_student(tmp_path / "t5", head="mlm")
    assert "\n" not in str(caught.value)


def test_dropout_is_that_of_the_run_or_of_the_folder(kit, tmp_path):
    for family in ("bert", "distilbert"):
        kit.save_masked_lm(tmp_path / family, family)
        for dropout in (None, 0.0, 0.3):
            student = load_student(tmp_path / family, head="class", label_names=("a", "b"), dropout=dropout)
            found = {m.p for m in student.modules() if isinstance(m, torch.nn.Dropout)}
            assert 0.1 in found if dropout is None else found == {dropout}


def test_weights_that_are_missing_or_pickled_are_refused(kit, teacher, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = kit.save_masked_lm(tmp_path / "t")
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "layer.1." not in k}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(TeacherError, match="is missing weights"):
        load_student(folder, label_names=("a", "b"), label_kind="class")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(TeacherError, match="cannot load"):
        load_student(folder, label_names=("a", "b"), label_kind="class")


@pytest.mark.parametrize(("family", "expected"), [("bert", 40), ("distilbert", 40), ("roberta", 39)])
def test_positions(kit, family, expected):
    student = AutoModelForSequenceClassification.from_config(kit.config(family))
    assert positions(student) == expected
    student(input_ids=torch.full((1, expected), 7), attention_mask=torch.ones(1, expected))
    with pytest.raises((RuntimeError, IndexError)):
        student(input_ids=torch.full((1, expected + 1), 7), attention_mask=torch.ones(1, expected + 1))


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"no student at .*/nowhere: there is no such folder; make one with"):
        model_folder(str(tmp_path / "nowhere"), "student")
    with pytest.raises(UsageError, match=r"no teacher at .*: it has no config\.json; give the folder of a local model"):
        model_folder(str(tmp_path), "teacher")


def test_interrupted_at_the_last_step_the_old_model_comes_back(tmp_path, monkeypatch):
    out = tmp_path / "model"
    out.mkdir()
    (out / "config.json").write_text("old")
    real = Path.rename

    def rename(self, target):
        if self.name == "new":
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt), new_model_folder(out, overwrite=True) as new:
        (new / "config.json").write_text("new")
    assert [(p.name, (p / "config.json").read_text()) for p in tmp_path.iterdir()] == [("model", "old")]
