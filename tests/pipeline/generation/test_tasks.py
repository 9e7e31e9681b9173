"""Known tasks from corpus to shards: spans with windows, long rows, and a task teacher's logits."""

import inspect
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers_gen import POSITIONS, VOCAB, Ran, make_tokenizer, rows, sentence, write_jsonl, write_parquet

from textsmooth.pipeline.training.dispatch import train
from textsmooth.schemas.plan import Plan
from textsmooth.schemas.tasks import TASKS
from textsmooth.schemas.train import TrainOptions
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.open import read_manifest
from textsmooth.stages.models.student_init import make_student
from textsmooth.stages.storage.atomic import read_json


def table(folder: Path, split: str = "train") -> pa.Table:
    shards = [pa.ipc.open_file(pa.memory_map(str(p))).read_all() for p in sorted((folder / split).glob("*.arrow"))]
    return pa.concat_tables([t.replace_schema_metadata() for t in shards])


def plan_of(folder: Path) -> Plan:
    return Plan.from_json(read_json(folder / "plan.json"))


def questions(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows as SQuAD has them; every fifth question has no answer, some have two."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        words = " ".join(sentence(rng, 12) for _ in range(rng.randint(1, 4))).split(" ")
        first = rng.randrange(len(words))
        text, start = words[first], len(" ".join(words[:first])) + (first > 0)
        answers: dict[str, Any] = (
            {"text": [text, text[:1]], "answer_start": [start, start]} if number % 5 else {"text": [], "answer_start": []}
        )
        found.append({"id": f"q{number}", "title": "t", "context": " ".join(words), "question": sentence(rng, 3), "answers": answers})
    return found


@pytest.fixture(scope="module")
def squad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora") / "squad"
    write_parquet(folder / "train.parquet", questions(30), group=7)
    return folder


def task_model(folder: Path, kind: str, names: tuple[str, ...] = (), **changes: Any) -> Path:
    """A tiny random classifier, regressor or span model with the tiny teacher's tokenizer."""
    from transformers import BertConfig, BertForQuestionAnswering, BertForSequenceClassification

    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(VOCAB), hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=POSITIONS, initializer_range=0.4, **changes,
    )  # fmt: skip
    if kind == "span":
        model: Any = BertForQuestionAnswering(config)
    else:
        config.id2label = dict(enumerate(names))
        config.label2id = {name: i for i, name in enumerate(names)}
        model = BertForSequenceClassification(config)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def test_squad_has_windows_and_answers_in_tokens(squad: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = gen("--corpus", squad, "--topk", 4, "--rows-per-shard", 11, "--stride", 6, "--out", out)
    assert ran.code == 0, ran.err
    manifest = read_manifest(out)
    assert manifest.corpus["task"] == "squad" and manifest.corpus["label_kind"] == "span"
    assert (manifest.config["long"], manifest.config["stride"], manifest.config["max_length"]) == ("window", 6, POSITIONS)
    read = table(out)
    assert sum(shard.rows for shard in manifest.shards) == 30
    assert sum(shard.samples for shard in manifest.shards) == len(read) == manifest.statistics["windows"] > 30
    assert len(SmoothedDataset(out, "train")) == len(read)
    known = {row["id"]: row for row in questions(30)}
    answered: dict[str, int] = {}
    for number, row in enumerate(read.to_pylist()):
        source = known[row["example_id"]]
        assert row["row"] == int(row["example_id"][1:])
        assert row["window"] == (
            0 if number == 0 or read["row"][number - 1].as_py() != row["row"] else read["window"][number - 1].as_py() + 1
        )
        begin, covered = row["context_start"], [place for place in row["offsets"] if place != [-1, -1]]
        assert row["context"] == source["context"][begin : begin + len(row["context"])] and row["answers"] == source["answers"]
        assert (min(low for low, _ in covered), max(high for _, high in covered)) == (0, len(row["context"]))
        assert len(row["input_ids"]) == len(row["offsets"]) == len(row["soft_ids"]) <= POSITIONS
        start, end = row["start_positions"], row["end_positions"]
        if start:
            answered[row["example_id"]] = answered.get(row["example_id"], 0) + 1
            low, high = row["offsets"][start][0], row["offsets"][end][1]
            assert row["context"][low:high] == source["answers"]["text"][0]
        for token, (low, high) in zip(row["input_ids"], row["offsets"], strict=True):
            assert (
                VOCAB[token] in ("[UNK]", row["context"][low:high].lower().replace("ï", "i")) or low == -1 or VOCAB[token].startswith("##")
            )
    lost = manifest.statistics["lost_answers"]
    assert len(answered) + lost == sum(bool(row["answers"]["text"]) for row in known.values())
    assert lost == 0
    card = (out / "README.md").read_text()
    assert "| task | squad |" in card and f"{len(read):,} in all" in card


def test_soft_ids_of_windows_are_those_of_the_windows_alone(squad: Path, gen: Callable[..., Ran], teacher: Path, tmp_path: Path) -> None:
    from transformers import BertForMaskedLM

    out = tmp_path / "out"
    assert gen("--corpus", squad, "--topk", 5, "--out", out).code == 0
    model = BertForMaskedLM.from_pretrained(teacher).double().eval()
    for row in table(out).to_pylist()[::7]:
        ids, types = torch.tensor([row["input_ids"]]), torch.tensor([row["token_type_ids"]])
        with torch.no_grad():
            dense = model(input_ids=ids, token_type_ids=types).logits[0].log_softmax(-1).numpy()
        for token, soft in enumerate(row["soft_ids"]):
            if soft:
                assert set(soft) == set(np.argsort(-dense[token])[:5])
                np.testing.assert_allclose(row["soft_logprobs"][token], dense[token][soft], rtol=2**-10, atol=1e-4)


def test_a_span_task_is_not_cut_off(squad: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    ran = gen("--corpus", squad, "--long", "truncate", "--out", tmp_path / "out")
    assert ran.code == 2 and "would cut them off" in ran.err
    ran = gen("--corpus", squad, "--text-column", "context", "--keep-columns", "id", "--out", tmp_path / "out")  # another task
    assert ran.code == 0, ran.err
    assert read_manifest(tmp_path / "out").corpus["task"] is None if "task" in read_manifest(tmp_path / "out").corpus else True


def test_long_rows_become_windows_with_their_label(gen: Callable[..., Ran], tmp_path: Path) -> None:
    lines = [{"text": " ".join(["cat", "dog"] * n), "label": n % 2, "note": f"n{n}"} for n in range(1, 30)]
    corpus = write_jsonl(tmp_path / "long.jsonl", lines)
    out = tmp_path / "out"
    ran = gen("--corpus", corpus, "--long", "window", "--stride", 5, "--keep-columns", "note", "--topk", 3, "--out", out)
    assert ran.code == 0, ran.err
    read = table(out).to_pylist()
    assert max(row["window"] for row in read) == 3
    for row in read:
        assert row["label"] == lines[row["row"]]["label"] and row["note"] == lines[row["row"]]["note"]
    seen: dict[int, int] = {}
    for row in read:  # windows share 5 tokens, specials apart
        seen[row["row"]] = seen.get(row["row"], 0) + len(row["input_ids"]) - 2 - (5 if row["window"] else 0)
    assert [seen[n] for n in range(29)] == [2 * n for n in range(1, 30)]
    assert read_manifest(out).statistics["truncated_rows"] == 0
    cut = tmp_path / "cut"
    assert gen("--corpus", corpus, "--topk", 3, "--out", cut).code == 0
    assert read_manifest(cut).statistics["truncated_rows"] == sum(2 * n > POSITIONS - 2 for n in range(1, 30))
    assert "window" not in table(cut).column_names


def dense_logits(folder: Path, row: dict[str, Any], auto: Any) -> Any:
    model = auto.from_pretrained(folder).double().eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([row["input_ids"]]), token_type_ids=torch.tensor([row["token_type_ids"]]))


def test_a_classifier_writes_its_logits_in_the_corpus_order(gen: Callable[..., Ran], hub_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    out = tmp_path / "out"
    model = task_model(tmp_path / "classifier", "class", ("Yes", "NO"))  # the corpus has no, yes
    ran = gen("--corpus", f"{hub_folder}:single", "--task-teacher", model, "--topk", 3, "--out", out)
    assert ran.code == 0, ran.err
    for row in table(out).to_pylist()[::5]:
        expected = dense_logits(model, row, AutoModelForSequenceClassification).logits[0].numpy()[[1, 0]]
        np.testing.assert_allclose(row["teacher_logits"], expected, atol=1e-4)
    manifest = read_manifest(out)
    assert manifest.task_teacher is not None and list(manifest.task_teacher["order"]) == [1, 0]
    again = gen("--corpus", f"{hub_folder}:single", "--task-teacher", model, "--topk", 3, "--out", out)
    assert again.code == 0 and again.out.startswith("Nothing to do")
    other = gen("--corpus", f"{hub_folder}:single", "--topk", 3, "--out", out)
    assert other.code == 1 and "task teacher: classifier there, none asked for" in other.err


def test_a_span_model_writes_two_logits_per_token(squad: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    from transformers import AutoModelForQuestionAnswering

    out = tmp_path / "out"
    model = task_model(tmp_path / "reader", "span")
    assert gen("--corpus", squad, "--task-teacher", model, "--topk", 3, "--out", out).code == 0
    for row in table(out).to_pylist()[::9]:
        found = dense_logits(model, row, AutoModelForQuestionAnswering)
        expected = torch.stack([found.start_logits[0], found.end_logits[0]], -1).numpy()
        np.testing.assert_allclose(row["teacher_logits"], expected, atol=1e-4)


def test_a_regressor_writes_one_logit(gen: Callable[..., Ran], tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "scores.jsonl", [{"text": r["text"], "label": n / 7} for n, r in enumerate(rows(9))])
    model = task_model(tmp_path / "regressor", "value", ("score",))
    assert gen("--corpus", corpus, "--task-teacher", model, "--topk", 3, "--out", tmp_path / "out").code == 0
    assert {len(row) for row in table(tmp_path / "out")["teacher_logits"].to_pylist()} == {1}


def test_a_task_teacher_with_a_tokenizer_of_its_own(reviews: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model = task_model(tmp_path / "classifier", "class", ("LABEL_0", "LABEL_1"))
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.normalizer = None  # upper case is unknown to it
    tokenizer.save_pretrained(model)
    assert gen("--corpus", reviews, "--task-teacher", model, "--topk", 3, "--out", tmp_path / "out").code == 0
    loaded = AutoModelForSequenceClassification.from_pretrained(model).double().eval()
    texts = [r["text"] for r in rows(40)]
    for row in table(tmp_path / "out").to_pylist()[::6]:
        enc = tokenizer(texts[row["row"]], return_tensors="pt", truncation=True)
        with torch.no_grad():
            np.testing.assert_allclose(row["teacher_logits"], loaded(**enc).logits[0].numpy(), atol=1e-4)
    tokenizer.model_max_length = 6
    tokenizer.save_pretrained(model)
    ran = gen("--corpus", reviews, "--task-teacher", model, "--topk", 3, "--out", tmp_path / "short")
    assert "cut for the task teacher: " in ran.out
    stored = [read_manifest(tmp_path / name).task_teacher for name in ("out", "short")]
    assert [s["max_length"] for s in stored if s] == [POSITIONS, 6]
    assert [u.id for u in plan_of(tmp_path / "out").units] != [u.id for u in plan_of(tmp_path / "short").units]
    windowed = gen("--corpus", reviews, "--task-teacher", model, "--long", "window", "--out", tmp_path / "windows")
    assert windowed.code == 2 and "another tokenizer" in windowed.err


@pytest.mark.parametrize("family", ["Roberta", "DistilBert", "FNet", "MobileBert", "DebertaV2", "Electra"])
def test_a_task_teacher_of_any_family_reads_rows_as_if_alone(family: str, gen: Callable[..., Ran], tmp_path: Path) -> None:
    """Some take no mask, no token types, or change with padding."""
    import transformers

    sizes = {"vocab_size": len(VOCAB), "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    extra = {"MobileBert": {"embedding_size": 24, "intra_bottleneck_size": 24, "true_hidden_size": 24}, "Roberta": {"type_vocab_size": 1}}
    config = getattr(transformers, f"{family}Config")(
        **sizes, max_position_embeddings=POSITIONS + 8, pad_token_id=0, **extra.get(family, {})
    )
    torch.manual_seed(1)
    model = getattr(transformers, f"{family}ForSequenceClassification")(config).eval()
    folder = tmp_path / "second"
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    corpus = write_jsonl(tmp_path / "pairs.jsonl", rows(20, pair=True))
    assert gen("--corpus", corpus, "--task-teacher", folder, "--topk", 3, "--out", tmp_path / "out").code == 0
    takes_types = "token_type_ids" in inspect.signature(model.forward).parameters and family != "Roberta"
    for row in table(tmp_path / "out").to_pylist()[::3]:
        types = {"token_type_ids": torch.tensor([row["token_type_ids"]])} if takes_types else {}
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([row["input_ids"]]), **types).logits[0].numpy()
        np.testing.assert_allclose(row["teacher_logits"], expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("kind", "names", "said"),
    [
        ("class", ("a", "b", "c"), "has 3 classes"),
        ("class", ("good", "bad"), "their order is unknown"),
        ("value", ("score",), "the corpus's labels are classes"),
    ],
)
def test_a_task_teacher_for_another_task(
    kind: str, names: tuple[str, ...], said: str, hub_folder: Path, gen: Callable[..., Ran], tmp_path: Path
) -> None:
    model = task_model(tmp_path / "other", kind, names)
    ran = gen("--corpus", f"{hub_folder}:single", "--task-teacher", model, "--out", tmp_path / "out")
    assert ran.code == 2 and said in ran.err, ran.err
    assert len(ran.err.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_nameless_classes_are_told_apart_by_the_numbers_of_the_corpus(gen: Callable[..., Ran], hub_folder: Path, tmp_path: Path) -> None:
    model = task_model(tmp_path / "classifier", "class", ("LABEL_0", "LABEL_1"))
    ran = gen("--corpus", f"{hub_folder}:single", "--task-teacher", model, "--topk", 3, "--out", tmp_path / "out")
    assert ran.code == 0 and "teacher_logits by classifier: LABEL_0 = no, LABEL_1 = yes\n" in ran.out


def test_rows_without_a_label_stay_out_of_training(gen: Callable[..., Ran], hub_folder: Path, teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert gen("--corpus", f"{hub_folder}:single", "--topk", 3, "--out", out).code == 0
    unlabelled = table(out)["label"].to_pylist().count(-1)
    assert unlabelled
    student = make_student(teacher, (0,), tmp_path / "student")
    result = train(TrainOptions(dataset=str(out), student=str(student), out=str(tmp_path / "trained"), max_steps=2, threads=1))
    assert (result.rows, result.unlabelled_rows) == (30 - unlabelled, unlabelled)


@pytest.mark.parametrize(("config", "metric"), [("mrpc", "f1"), ("cola", "matthews"), ("rte", "accuracy"), ("stsb", "pearson")])
def test_the_score_that_counts_is_the_task_s(config: str, metric: str, gen: Callable[..., Ran], teacher: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "glue"
    columns = TASKS[f"glue/{config}"].text_columns
    for split, seed in (("train", 1), ("validation", 2)):
        lines = [
            {**dict.fromkeys(columns, row["text"]), "label": n % 5 / 2 if config == "stsb" else n % 2}
            for n, row in enumerate(rows(12, seed))
        ]
        write_parquet(corpus / config / f"{split}.parquet", lines, group=5)
    data = [f"- config_name: {config}\n  data_files:"] + [
        f"  - {{split: {s}, path: {config}/{s}.parquet}}" for s in ("train", "validation")
    ]
    (corpus / "README.md").write_text("---\nconfigs:\n" + "\n".join(data) + "\n---\n")
    ran = gen("--corpus", f"{corpus}:{config}", "--topk", 3, "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert read_manifest(tmp_path / "out").corpus["task"] == f"glue/{config}"
    student = make_student(teacher, (0,), tmp_path / "student")
    result = train(TrainOptions(dataset=str(tmp_path / "out"), student=str(student), out=str(tmp_path / "trained"), max_steps=1, threads=1))
    assert result.metric == metric
    assert result.summary().startswith(f"score    {metric} ")


def test_tokens_that_the_tokenizer_does_not_know_are_counted(gen: Callable[..., Ran], tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"text": "a 日 cat"}, {"text": "本 🙂"}])
    ran = gen("--corpus", corpus, "--topk", 3, "--out", tmp_path / "out")
    assert "unknown to the tokenizer: 3 tokens, 33.3%" in ran.out
    assert "| unknown to the tokenizer | 33.3% of the tokens |" in (tmp_path / "out/README.md").read_text()


def test_a_task_teacher_without_a_trained_head(reviews: Path, teacher: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    ran = gen("--corpus", reviews, "--task-teacher", teacher, "--out", tmp_path / "out")
    assert ran.code == 1 and "is a BertForMaskedLM, a sequence classifier is needed" in ran.err
    assert not (tmp_path / "out").exists()
