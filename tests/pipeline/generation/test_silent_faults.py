"""Nothing is lost or mistaken without a word: labels, blank text, files outside a folder, a teacher that changed."""

import ast
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from helpers_gen import VOCAB, Ran, make_model, wrong

from textsmooth.pipeline.generation.run import generate
from textsmooth.pipeline.plan.cut import make_plan
from textsmooth.pipeline.plan.differences import plan_differences
from textsmooth.pipeline.plan.resolve import resolve_request
from textsmooth.pipeline.plan.versions import DECIDES_BYTES
from textsmooth.pipeline.units.worker import UnitWorker
from textsmooth.schemas.config import GenerateOptions, GenerationConfig
from textsmooth.schemas.errors import TeacherError
from textsmooth.schemas.plan import CorpusIdentity, TaskTeacherIdentity, TeacherIdentity, unit_ids
from textsmooth.schemas.tasks import MOST_CLASSES
from textsmooth.stages.dataset.open import open_folder, read_manifest

ROOT = Path(__file__).resolve().parents[3]


def test_labels_are_not_lost_where_the_first_row_or_file_has_none(gen: Callable[..., Ran], desk: Path) -> None:
    (desk / "late.jsonl").write_text('{"text": "a"}\n{"text": "b", "label": 1}\n')
    assert "row 0 of late.jsonl has no column 'label'" in wrong(gen, desk, 1, "--corpus", "late.jsonl", "--teacher", "teacher")
    (desk / "parts").mkdir()
    (desk / "parts/test.jsonl").write_text('{"text": "a"}\n')
    (desk / "parts/train.jsonl").write_text('{"text": "b", "label": 1}\n')
    line = wrong(gen, desk, 2, "--corpus", "parts", "--teacher", "teacher")
    assert "test.jsonl has no column 'label'" in line and "--split" in line
    ran = gen("--corpus", "parts", "--teacher", "teacher", "--split", "train", "--topk", 3, "--out", "out")
    assert ran.code == 0 and "label" in read_manifest(desk / "out").corpus["label_column"]


def test_labels_below_minus_one_are_no_classes(gen: Callable[..., Ran], desk: Path) -> None:
    (desk / "signed.jsonl").write_text('{"text": "a", "label": -2}\n{"text": "b", "label": 1}\n')
    assert "has -2: classes count from 0, -1 stands for no label" in wrong(gen, desk, 1, "--corpus", "signed.jsonl", "--teacher", "teacher")
    (desk / "none.jsonl").write_text('{"text": "a", "label": -1}\n{"text": "b", "label": 1}\n')
    assert "without a label (null or -1): 1 row\n" in gen("--corpus", "none.jsonl", "--teacher", "teacher", "--topk", 3, "--out", "out").out


def test_special_tokens_that_stand_in_a_text_are_smoothed_like_words(gen: Callable[..., Ran], desk: Path) -> None:
    (desk / "marks.txt").write_text("the [SEP] cat [MASK] [PAD] [CLS] sat\n")
    assert gen("--corpus", "marks.txt", "--teacher", "teacher", "--topk", 3, "--out", "out").code == 0
    statistics = read_manifest(desk / "out").statistics
    assert (statistics["tokens"], statistics["smoothed_tokens"]) == (9, 7)
    (shard,) = (desk / "out/train").iterdir()
    ids = pa.ipc.open_file(shard).read_all()["input_ids"].to_pylist()[0]
    pad, cls, sep, mask = map(VOCAB.index, ("[PAD]", "[CLS]", "[SEP]", "[MASK]"))
    assert ids == [cls, VOCAB.index("the"), sep, VOCAB.index("cat"), mask, pad, cls, VOCAB.index("sat"), sep]


def test_labels_that_no_student_can_be_trained_on_are_told_before_the_teacher_works(gen: Callable[..., Ran], desk: Path) -> None:
    args = ("--teacher", "teacher", "--topk", 3, "--rows-per-shard", 1)
    for label, told in ((MOST_CLASSES - 1, False), (MOST_CLASSES, True)):
        (desk / f"{label}.jsonl").write_text(f'{{"text": "a", "label": {label}}}\n{{"text": "b", "label": 0}}\n')
        note = f"the label {label:,} is taken for a class, and textsmooth train takes {MOST_CLASSES:,} classes at most"
        run = ("--corpus", f"{label}.jsonl", *args, "--out", f"out{label}")
        assert (note in gen(*run, "--dry-run").out) == told
        first = gen(*run, "--progress", "json")
        events = [json.loads(line) for line in first.err.splitlines()]
        assert events[0]["event"] == "started" and events[0].get("note", "").startswith(note) == told
        (desk / f"out{label}/manifest.json").unlink()
        for ran in (first, gen(*run), gen(*run)):  # goes on, and is finished
            assert (note in ran.out) == told and ("textsmooth train " + f"out{label}" in ran.out) == (not told), ran
    (desk / "names.csv").write_text(f"text,label\na,{MOST_CLASSES}\nb,x\n")
    assert "is taken for a class" not in gen("--corpus", "names.csv", *args, "--text-column", "text", "--out", "named").out
    masked = gen("--corpus", f"{MOST_CLASSES}.jsonl", *args, "--context", "masked:2", "--out", "masked").out
    assert note in masked and "--objective mlm" in masked


def test_a_corpus_folder_that_points_outside_itself_is_refused(gen: Callable[..., Ran], desk: Path) -> None:
    (desk / "sly").mkdir()
    (desk / "sly/README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: ../good.jsonl\n---\n")
    assert "outside the folder" in wrong(gen, desk, 2, "--corpus", "sly", "--teacher", "teacher")


def test_a_saved_folder_cannot_name_its_parent_a_split(gen: Callable[..., Ran], desk: Path) -> None:
    """A split's name becomes that of a folder: nothing outside --out is written, read or tidied away."""
    (desk / "victim/corpus").mkdir(parents=True)
    (desk / "victim/corpus/dataset_dict.json").write_text('{"splits": [".."]}')
    datasets.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(str(desk / "victim"))
    (desk / "outs").mkdir()
    (desk / "outs/precious.arrow").write_bytes(b"mine")
    assert "names splits that are no folders: ['..']" in wrong(
        gen, desk, 1, "--corpus", "victim/corpus", "--teacher", "teacher", "--topk", 3, "--out", "outs/o1"
    )


def test_a_folder_with_configs_asks_for_one(gen: Callable[..., Ran], desk: Path, hub_folder: Path) -> None:
    line = wrong(gen, desk, 2, "--corpus", hub_folder, "--teacher", "teacher")
    assert "give one of" in line and f"--corpus {hub_folder}:" in line


def test_without_a_teacher_named_it_is_the_default_one(desk: Path) -> None:
    with pytest.raises(TeacherError, match="google-bert/bert-base-uncased is neither on this machine"):  # tests are offline
        generate(GenerateOptions(corpus=str(desk / "good.jsonl")))


def test_another_source_in_the_same_folder_is_another_run(desk: Path) -> None:
    """The commit that a plan has is no revision of something else."""
    options = GenerateOptions(corpus="good.jsonl", teacher="teacher", topk=3, out="out", dtype="float32")
    plan = make_plan(resolve_request(options))
    corpus, teacher = replace(plan.corpus, name="o/n", revision="a" * 40), replace(plan.teacher, name="o/m", revision="b" * 40)
    found = plan_differences(
        resolve_request(options, replace(plan, corpus=corpus, teacher=teacher)),
        replace(plan, corpus=corpus, teacher=teacher),
        finished=True,
    )
    assert any(line.startswith("name: o/n there") for line in found) and any(line.startswith("teacher name: o/m there") for line in found)


def test_a_unit_is_named_after_all_that_decides_its_bytes() -> None:
    teacher = TeacherIdentity(name="t", digest="d", tokenizer_digest="k", vocab_digest="v", vocab_size=9, model_type="bert")
    second = TaskTeacherIdentity(name="s", digest="d", tokenizer_digest="k", kind="class", width=2, max_length=64)
    corpus = CorpusIdentity(
        name="c", files={}, text_columns=("text",), label_column="label", label_kind="value", label_names=None,
        keep_columns=("a", "b"), keep_types=("int64", "string"), limit=None,
    )  # fmt: skip
    own = {"split": "train", "row": 0, "rows_sha256": "r"}
    run = {"teacher": teacher, "corpus": corpus, "config": GenerationConfig()}
    others = [
        {"corpus": replace(corpus, task="glue/stsb")},  # there, -1 is no label
        {"corpus": replace(corpus, keep_columns=("b", "a"), keep_types=("string", "int64"))},
        {"task_teacher": second},
        {"task_teacher": replace(second, max_length=12)},
        {"task_teacher": replace(second, order=(1, 0))},
        {"split": "test"},
        {"row": 1},
        {"config": GenerationConfig(context="masked:2")},
    ]
    ids = []
    for other in ({}, *others):
        unit = {name: other.get(name, value) for name, value in own.items()}
        ids.append(unit_ids(**{**run, **{name: value for name, value in other.items() if name not in own}})(*unit.values()))
    assert len(set(ids)) == len(ids)


def test_the_code_digest_covers_every_module_that_a_unit_runs() -> None:
    """Walks the imports of pipeline/units/worker.py; what is exempt decides no bytes."""
    exempt = {
        # digests, names, messages
        "schemas/canonical.py",
        "schemas/errors.py",
        "schemas/options.py",
        "schemas/type_checks.py",
        "schemas/version.py",
        "schemas/manifest.py",
        "schemas/manifest_fields.py",
        "schemas/field_types.py",
        "schemas/receipt.py",
        "pipeline/commit/receipts.py",
        # where the rows come from: their content is hashed
        "pipeline/plan/inputs.py",
        "stages/corpus/corpus.py",
        "stages/corpus/folder.py",
        "stages/corpus/hub.py",
        "stages/corpus/object_store.py",
        "stages/corpus/open.py",
        "stages/hub/errors.py",
        "stages/hub/file.py",
        "stages/hub/listing.py",
        "stages/hub/model.py",
        "stages/hub/names.py",
        # where the bytes go: a shard has its sha256
        "stages/storage/async_store.py",
        "stages/storage/atomic.py",
        "stages/storage/cache.py",
        "stages/storage/retry.py",
        "stages/storage/folder.py",
        "stages/storage/gcs.py",
        "stages/storage/local.py",
        "stages/storage/object_store.py",
        "stages/storage/registry.py",
        "stages/storage/s3.py",
        # the machine: device, number format and threads are in the plan
        "pipeline/plan/machine.py",
        "pipeline/plan/versions.py",
        "stages/models/cgroup.py",
        "stages/models/device.py",
        # reading shards, and messages
        "schemas/printable.py",
        "schemas/pointers.py",
        "stages/soft_ids/ipc_sizes.py",
        # counts and times
        "pipeline/units/watchdog.py",
        "stages/soft_ids/statistics.py",
    }
    seen, waiting = set(), ["pipeline/units/worker.py"]
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("textsmooth."):
                module = (node.module or "").removeprefix("textsmooth.").replace(".", "/")
                named = [module, *(f"{module}/{alias.name}" for alias in node.names)]
                waiting += [f"{name}.py" for name in named if (ROOT / f"{name}.py").is_file()]
    assert seen == set(DECIDES_BYTES.values()) | exempt


def test_a_blank_corpus_says_that_nothing_was_smoothed(gen: Callable[..., Ran], desk: Path) -> None:
    (desk / "blank.txt").write_text("\n\n")
    ran = gen("--corpus", "blank.txt", "--teacher", "teacher", "--topk", 3, "--out", "out")
    assert ran.code == 0 and "no token was smoothed" in ran.out


def test_a_teacher_that_changed_after_planning_is_refused(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan names a teacher by content; the worker loads that one or none."""
    options = GenerateOptions(corpus=str(desk / "good.jsonl"), teacher=str(desk / "teacher"), topk=3, out=str(desk / "out"))
    asked = resolve_request(options)
    plan = make_plan(asked)
    make_model(initializer_range=0.3).save_pretrained(desk / "teacher")
    with pytest.raises(TeacherError, match="is not the planned one"):
        UnitWorker(plan, asked.sources, open_folder(desk / "out"))
