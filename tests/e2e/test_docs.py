"""The docs say what is true: commands run, the format's table is the code's, links lead somewhere."""

import json
import re
import shlex
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from helpers_docs import ROOT, blocks, commands, run

from textsmooth.pipeline import demo
from textsmooth.schemas.shard import ShardMeta, columns_of
from textsmooth.schemas.tasks import TASKS
from textsmooth.stages.soft_ids.shard import shard_schema

README = (ROOT / "README.md").read_text(encoding="utf-8")
FORMAT = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
OWN = ("textsmooth", "textsmooth-gen", "textsmooth-train")


@pytest.mark.ci
@pytest.mark.docs
def test_every_command_of_the_readme_runs_in_order(tmp_path: Path) -> None:
    rows = (demo.corpus_folder() / "train.jsonl").read_text().splitlines()[:200]
    (tmp_path / "reviews.jsonl").write_text("\n".join(rows) + "\n")
    ran = [words for words in commands(README) if words[0] in OWN]
    assert {words[0] for words in ran} == set(OWN)
    said = {shlex.join(words): run(words, tmp_path) for words in ran}
    shown = blocks(README, "text")[0].splitlines()
    assert shown[0].startswith("$ ") and shown[-1].strip() == "…"
    lines = [line.rstrip() for line in said[shown[0][2:]].splitlines()]
    assert [line.split()[:1] for line in lines[: len(shown) - 2]] == [line.split()[:1] for line in shown[1:-1]]
    for here, there in zip(shown[1:-1], lines, strict=False):  # to a rounding: another machine, or number format
        numbers = [[float(n) for n in re.findall(r"\d\.\d\d", line)[:2]] for line in (here, there)]
        assert numbers[0] == pytest.approx(numbers[1], abs=0.05), (here, there)
    for code in [*blocks(README, "python"), *blocks(FORMAT, "python")]:
        run([sys.executable, "-c", code], tmp_path)


@pytest.mark.docs
def test_every_command_and_every_loop_of_the_page_on_training_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    said = {shlex.join(words): run(words, tmp_path) for words in commands(page)}
    assert {words.split()[1] for words in said if words.startswith("textsmooth ")} == {"student", "train", "compare"}
    loops = [run([sys.executable, "-c", code], tmp_path) for code in blocks(page, "python")]
    assert len(loops) == 2 and "eval_loss" in loops[1]
    assert (tmp_path / "students" / "smoothed" / "train.json").is_file()
    assert (tmp_path / "comparisons" / "demo" / "compare.png").is_file()


@pytest.mark.docs
def test_the_tutorial_and_the_page_on_looking_run(tmp_path: Path) -> None:
    rows = (demo.corpus_folder() / "train.jsonl").read_text().splitlines()
    (tmp_path / "more.jsonl").write_text("\n".join(rows[200:260]) + "\n")
    (tmp_path / "others.jsonl").write_text("\n".join(rows[260:300]) + "\n")
    tutorial = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    said = [run([sys.executable, "-c", code], tmp_path) for code in blocks(tutorial, "python")]
    assert len(said) == 6 and said[1].startswith("1 ") and "holds another run" in said[1]
    assert (tmp_path / "students" / "smoothed" / "config.json").is_file()
    run([f"{OWN[1]}", "--corpus", "demo", "--limit", "200"], tmp_path)
    looking = (ROOT / "docs" / "looking.md").read_text(encoding="utf-8")
    ran = [words for words in commands(looking) if words[0] in OWN]
    assert {words[1] for words in ran} == {"inspect", "stats", "report"}
    for words in ran:
        run(words, tmp_path)
    for code in blocks(looking, "python"):
        run([sys.executable, "-c", code], tmp_path)
    assert "Content-Security-Policy" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_readme_names_only_make_targets_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = [words[1] for words in commands(README) if words[0] == "make"]
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert all(words[0] in (*OWN, "make", "pip") for words in commands(README))


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 200


def test_the_architecture_page_names_every_package() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    packages = {
        init.parent.relative_to(ROOT).as_posix() for layer in ("stages", "pipeline") for init in (ROOT / layer).glob("*/__init__.py")
    }
    assert set(re.findall(r"^\| `((?:stages|pipeline)/\w+)` \|", page, re.MULTILINE)) == packages
    assert [name for name in packages if not 10 <= len((ROOT / name / "README.md").read_text(encoding="utf-8").splitlines()) <= 30] == []


def test_relative_links_lead_somewhere() -> None:
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_table_of_columns_is_the_schema() -> None:
    meta = ShardMeta(
        codec="plain",
        topk=8,
        mass=1.0,
        temperatures=(0.5, 2.0),
        context="unmasked",
        vocab_size=100,
        teacher="t",
        tokenizer="k",
        vocab="v",
        split="train",
        unit="u",
    )
    schemas = [shard_schema(meta, token_types=True, label_kind=kind, windows=True, logits=2) for kind in ("class", "value", "span")]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", FORMAT.partition("`--codec compact`")[0], re.MULTILINE)
    told = {name: kind.replace("\\", "").replace("[S]", "[2]").replace("[C]", "[2]") for name, kind in rows}
    assert list(told) == list(columns_of("plain"))
    for schema in schemas:
        assert [name for name in columns_of("plain") if name in schema.names] == schema.names
    assert {name for schema in schemas for name in schema.names} == set(columns_of("plain"))

    def short(kind: pa.DataType) -> str:
        if pa.types.is_fixed_size_list(kind):
            return f"fixed_size_list<{short(kind.value_type)}>[{kind.list_size}]"
        if pa.types.is_list(kind):
            return f"list<{short(kind.value_type)}>"
        if pa.types.is_struct(kind):
            return f"struct<{', '.join(f'{f.name}: {short(f.type)}' for f in kind)}>"
        return {"halffloat": "float16", "float": "float32", "uint16": "id"}.get(str(kind), str(kind))

    for schema in schemas:
        for field in schema:
            assert short(field.type) in re.split(" or |, or ", told[field.name]), field


def test_the_table_of_tasks_is_the_code() -> None:
    told = re.findall(r"^\| `([a-z]\S*)` \|(.+)\|$", (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name, _ in told] == list(TASKS)
    for name, row in told:
        task = TASKS[name]
        assert [cell.strip() for cell in row.split("|")] == [
            f"{task.repo}:{task.config}",
            " + ".join(task.text_columns),
            f"{task.label_column} ({task.label_kind})",
            ", ".join(task.label_names or ("–",)),
            ", ".join(task.metrics),
            str(task.max_length),
        ]


def test_every_metadata_key_of_a_shard_is_in_the_format() -> None:
    text = FORMAT[FORMAT.index("## Metadata of a shard") : FORMAT.index("## Digests")]
    for field in ShardMeta.__dataclass_fields__:
        assert f"`{field}`" in text, field


def test_the_demo_corpus_is_what_the_readme_shows() -> None:
    row = json.loads((demo.corpus_folder() / "train.jsonl").read_text().splitlines()[3])
    assert row["text"].startswith("we watched this movie last night")
