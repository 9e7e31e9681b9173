"""The dataset card: made again from the manifest, loads as it says, tells what is known and flags what is not, whatever names are."""

import html
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from helpers_gen import Ran, rows, write_jsonl, write_parquet
from helpers_hub import at_hub
from hub_server import Hub

from textsmooth.pipeline.commit.card import PLACE, card, code, escaped
from textsmooth.pipeline.commit.card_yaml import HUB_LICENSES, licenses
from textsmooth.schemas.canonical import digest
from textsmooth.schemas.manifest import Manifest
from textsmooth.stages.checks.shard import expected_schema
from textsmooth.stages.corpus.folder import card_facts, card_head, folder_license
from textsmooth.stages.dataset.open import read_manifest

HOSTILE = [
    "x | y",
    "a: b # c",
    "'q' \"q\"",
    "---\nlicense: mit",
    "<script>alert(1)</script>",
    "`code` | `more`",
    "[click](http://evil.example) ![i](x)",
    "**bold** _it_ ~~no~~ $x$",
    "tab\tand\u202eturned\x1b[31m",
    "&lt;b&gt; &amp; \\| \\",
    "{a: [b, c]}",
    "!!python/object/apply:os.system [x]",
]


def head_of(text: str) -> dict[str, Any]:
    """As huggingface_hub reads it."""
    from huggingface_hub import DatasetCard

    found: dict[str, Any] = DatasetCard(text).data.to_dict()
    return found


def snippets(text: str, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def named(manifest: Manifest, group: str = "corpus", **changes: Any) -> Manifest:
    return replace(manifest, **{group: {**getattr(manifest, group), **changes}})


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Iterator[Path]:
    """A folder to serve as the Hub: datasets mine/reviews (windows, temperatures, kept columns; train and test) and mine/pairs."""
    from textsmooth.pipeline.generation.run import generate
    from textsmooth.schemas.config import GenerateOptions

    root = tmp_path_factory.mktemp("hub")
    corpus = tmp_path_factory.mktemp("corpora") / "reviews"
    labelled = [{**r, "label": -1 if r["label"] is None else r["label"]} for r in rows(20, 5)]
    write_parquet(corpus / "train.parquet", labelled[:12], group=5, classes=("no", "yes"))
    write_parquet(corpus / "test.parquet", labelled[12:], group=5, classes=("no", "yes"))
    (corpus / "README.md").write_text("---\nlicense: [MIT, cc-by-4.0]\nlanguage: [en, fr]\npretty_name: Reviews --- all\n---\n")
    shared = {"teacher": str(teacher), "threads": 1, "dtype": "float32", "topk": 4, "rows_per_shard": 8}
    made = root / "datasets/mine"
    more = {"long": "window", "max_length": 9, "stride": 1, "temperatures": (0.5, 1.0), "keep_columns": ("idx", "note")}
    generate(GenerateOptions(corpus=str(corpus), out=str(made / "reviews"), **shared, **more))
    generate(GenerateOptions(corpus=str(write_jsonl(corpus.parent / "pairs.jsonl", rows(9, 6))), out=str(made / "pairs"), **shared))
    yield made


@pytest.fixture
def reviews_made(hub: Path) -> Manifest:
    return read_manifest(hub / "reviews")


@pytest.fixture
def online(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(hub.parents[1], large=2_000) as server, at_hub(monkeypatch, tmp_path / "home", server.url):
        yield server


def test_the_card_is_made_again_from_the_manifest_alone(hub: Path) -> None:
    for name in ("reviews", "pairs"):
        manifest = read_manifest(hub / name)
        text = (hub / name / "README.md").read_text(encoding="utf-8")
        assert card(replace(manifest, files=(), created="")) == text
        assert manifest.dataset in text


@pytest.mark.parametrize("name", ["reviews", "pairs"])
@pytest.mark.parametrize("where", ["folder", "hub"])
def test_every_snippet_runs_as_it_is_printed(name: str, where: str, hub: Path, online: Hub) -> None:
    place = str(hub / name) if where == "folder" else f"mine/{name}"
    manifest = read_manifest(hub / name)
    found = snippets((hub / name / "README.md").read_text(encoding="utf-8"))
    assert len(found) == 4 and sum(text.count("hf_hub_download(") for text in found) == 1
    for text in found:
        assert text.count(PLACE) == 1
        if "memory_map" in text and ("hf_hub_download" in text) != (where == "hub"):
            continue  # of the other, as it says
        space: dict[str, Any] = {"print": lambda *_: None}
        exec(compile(text.replace(PLACE, place), "card", "exec"), space)
        first = manifest.shards[0]
        if "batch" in space:
            assert space["batch"].input_ids.shape[0] == 8 and space["batch"].soft is not None
        elif "table" in space:
            assert (space["table"].num_rows, len(space["entries"])) == (first.samples, first.tokens)
        else:
            assert len(space["rows"]) == sum(s.samples for s in manifest.split("train")) and space["ids"] is not None


def test_datasets_finds_columns_classes_and_sizes_by_the_head(hub: Path, online: Hub, reviews_made: Manifest) -> None:
    import datasets

    found = datasets.load_dataset("mine/reviews")
    assert list(found) == ["train", "test"]
    features = found["train"].features
    assert features["label"].names == ["no", "yes"]
    there = pa.ipc.open_file(str(hub / "reviews" / reviews_made.shards[0].path)).schema
    assert [(f.name, f.type) for f in features.arrow_schema] == [(f.name, f.type) for f in there]
    assert {f.name for f in there} >= {"window", "log_partition", "idx", "note", "label"}
    streamed = next(iter(datasets.load_dataset("mine/reviews", split="test", streaming=True)))
    assert streamed["soft_ids"] == found["test"][0]["soft_ids"]


def test_the_head_lists_each_split_and_its_rows(hub: Path, reviews_made: Manifest) -> None:
    head = head_of((hub / "reviews/README.md").read_text(encoding="utf-8"))
    assert head["configs"][0]["data_files"] == [{"split": s, "path": f"{s}/*.arrow"} for s in ("train", "test")]
    info = head["dataset_info"]
    assert [(s["name"], s["num_examples"]) for s in info["splits"]] == [
        (split, sum(s.samples for s in reviews_made.split(split))) for split in ("train", "test")
    ]
    assert info["dataset_size"] == sum(s.bytes for s in reviews_made.shards)
    assert head["size_categories"] == ["n<1K"]
    assert [f["name"] for f in info["features"]] == expected_schema(reviews_made, "", "").names


@pytest.mark.parametrize(("count", "named_as"), [(999, "n<1K"), (1_000, "1K<n<10K"), (99_999, "10K<n<100K"), (2_000_000, "1M<n<10M")])
def test_sizes_are_told_as_the_hub_files_them(count: int, named_as: str, hub: Path) -> None:
    manifest = read_manifest(hub / "pairs")
    large = replace(manifest, shards=(replace(manifest.shards[0], rows=count),))
    assert head_of(card(large))["size_categories"] == [named_as]


def test_what_the_corpus_says_of_itself_is_carried_over_and_nothing_is_invented(hub: Path, reviews_made: Manifest) -> None:
    head = head_of((hub / "reviews/README.md").read_text(encoding="utf-8"))
    assert (head["license"], head["language"]) == (["mit", "cc-by-4.0"], ["en", "fr"])
    assert "task_categories" not in head
    other = head_of(card(named(read_manifest(hub / "pairs"), task="glue/stsb")))
    assert (other["language"], other["task_categories"]) == (["en"], ["text-classification"])
    bare = head_of((hub / "pairs/README.md").read_text(encoding="utf-8"))
    assert not {"language", "task_categories", "license_name"} & set(bare)


def test_what_the_corpus_says_of_itself_is_in_no_digest(hub: Path) -> None:
    from textsmooth.schemas.plan import Plan
    from textsmooth.stages.storage.atomic import read_json

    plan = Plan.from_json(read_json(hub / "reviews/plan.json"))
    assert plan.corpus.about["language"] == ["en", "fr"]
    assert replace(plan, corpus=replace(plan.corpus, about={})).digest == plan.digest


@pytest.mark.parametrize(
    ("license", "about", "expected"),
    [
        ("mit", {}, {"license": "mit"}),
        ("MIT, cc-by-4.0", {}, {"license": ["mit", "cc-by-4.0"]}),
        (None, {}, {"license": "unknown"}),
        ("unknown", {}, {"license": "unknown"}),
        ("other", {}, {"license": "other"}),
        ("other", {"license_name": "x-1"}, {"license": "other", "license_name": "x-1"}),
        (
            "other",
            {"license_name": "x", "license_link": "https://e.org/l"},
            {"license": "other", "license_name": "x", "license_link": "https://e.org/l"},
        ),
        ("Our own: do not share!", {}, {"license": "other", "license_name": "our-own-do-not-share"}),
    ],
)
def test_licences_are_told_as_the_hub_takes_them(license: str | None, about: dict[str, str], expected: dict[str, Any], hub: Path) -> None:
    manifest = named(read_manifest(hub / "pairs"), license=license, about=about)
    assert licenses(manifest) == expected
    head = head_of(card(manifest))
    assert {k: v for k, v in head.items() if k.startswith("license")} == expected
    assert set(expected["license"] if isinstance(expected["license"], list) else [expected["license"]]) <= HUB_LICENSES


def test_a_licence_file_of_a_corpus_on_the_hub_is_linked_at_its_commit(hub: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    where = {"name": "owner/corpus:single", "revision": commit, "license": "other"}
    manifest = named(read_manifest(hub / "pairs"), **where, about={"license_name": "x", "license_link": "LICENSE.md"})
    assert licenses(manifest)["license_link"] == f"https://huggingface.co/datasets/owner/corpus/blob/{commit}/LICENSE.md"
    text = card(manifest)
    assert f"[owner/corpus:single](https://huggingface.co/datasets/owner/corpus/tree/{commit}) at commit `0123456789ab`" in text
    out = named(manifest, about={"license_link": "../../../evil"})
    assert "license_link" not in licenses(out)


def test_unknown_licences_are_flagged_before_anything_else(hub: Path) -> None:
    manifest = read_manifest(hub / "pairs")
    text = card(manifest)
    warning = text[text.index("> [!WARNING]") : text.index("| split |")]
    assert "**Licence of the corpus unknown.**" in warning and "can be read back" in warning
    assert "**Licence of the teacher unknown.**" in warning
    fine = card(named(named(manifest, license="mit"), "teacher", license="apache-2.0"))
    assert "WARNING" not in fine and "can be read back" in fine
    vague = card(named(named(manifest, license="other"), "teacher", license="apache-2.0"))
    assert "is `other`, without a name" in vague


def test_settings_figures_and_sources_are_told(hub: Path, reviews_made: Manifest) -> None:
    text = (hub / "reviews/README.md").read_text(encoding="utf-8")
    for line in (
        f"| teacher digest | `{reviews_made.teacher['digest']}` |",
        "| k | 4 entries per token at most |",
        "| temperatures stored | 0.5, 1 |",
        "| context | unmasked |",
        "| other columns | `idx`, `note` |",
        "eprint = {2005.03848}",
        "eprint = {2202.13840}",
    ):
        assert line in text, line
    half, whole, histogram = snippets(text, "text")[:3]
    statistics = reviews_made.statistics
    for block, masses in ((half, statistics["captured_mass_by_temperature"]["0.5"]), (whole, statistics["captured_mass"])):
        assert [float(p) for p in re.findall(r"([\d.]+)%", block)] == pytest.approx([100 * m for m in masses.values()], abs=0.051)
    assert text.index("At temperature 0.5:") < text.index("At temperature 1:")
    shares = [float(p) for p in re.findall(r"([\d.]+)%", histogram)]
    assert len(shares) == 10 and sum(shares) == pytest.approx(100, abs=0.6)
    assert histogram.count("█" * 40) == 1  # the longest bar


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_breaks_the_card(name: str, hub: Path, tmp_path: Path) -> None:
    manifest = read_manifest(hub / "reviews")
    plain = card(manifest)
    strange = named(manifest, name=name, license=name, text_columns=[name], label_column=name, label_names=[name, "yes"], about={})
    strange = named(strange, "teacher", name=name, license=name, model_type=name)
    strange = replace(strange, versions={name: name})
    text = card(strange)
    assert head_of(text).keys() - {"license_name"} == head_of(plain).keys() - {"language"}
    yaml.safe_load(text.split("\n---\n")[0])
    assert head_of(text)["pretty_name"].startswith(" ".join("".join(c for c in name if c.isprintable() or c.isspace()).split())[:3])
    assert [line.count("|") - line.count("\\|") for line in text.splitlines() if line.startswith("| ")] == [
        line.count("|") - line.count("\\|") for line in plain.splitlines() if line.startswith("| ")
    ]
    body = text.split("\n---\n", 1)[1]
    assert "<" not in re.sub(r"```.*?```", "", body, flags=re.DOTALL)
    assert not re.search(r"(?<!\\)\]\(http://evil", body) and "\x1b" not in body and "\u202e" not in body
    assert body.count("```") == plain.split("\n---\n", 1)[1].count("```")
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    assert card_head(tmp_path)["configs"] == head_of(plain)["configs"]


def test_no_split_steers_who_reads_the_card(hub: Path) -> None:
    manifest = read_manifest(hub / "reviews")
    evil = "x\x1b[31m\u202e\n"
    strange = replace(manifest, shards=tuple(replace(shard, split=evil, path=f"{evil}/0.arrow") for shard in manifest.shards))
    body = card(strange).split("\n---\n", 1)[1]
    assert all(text.isprintable() for text in body.split("\n"))


@pytest.mark.parametrize("name", HOSTILE)
def test_an_escaped_text_reads_as_it_was(name: str) -> None:
    read_back = html.unescape(re.sub(r"\\([\\`*_\[\]#|~$])", r"\1", escaped(name)))
    assert read_back == "".join(c for c in " ".join(name.split()) if c.isprintable())
    assert code("a_column.b") == "`a_column.b`" and "`" not in code("a|b")


def test_the_head_of_any_readme_is_read_or_taken_for_none(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    assert (card_head(tmp_path), folder_license(tmp_path), card_facts(tmp_path)) == ({}, None, {})
    for text in ("no head", "---\nlicense: [\n---\n", "---\n- a\n---\n", "text\n---\nlicense: mit\n---\n", "---\nlicense: mit\n"):
        readme.write_text(text)
        assert (card_head(tmp_path), card_facts(tmp_path)) == ({}, {}), text
    readme.write_text("---\r\nlicense: mit\r\nlanguage: en\r\npretty_name: 7\r\ntask_categories: [a, 3]\r\n---\r\n# title\r\n---\r\n")
    assert folder_license(tmp_path) == "mit"
    assert card_facts(tmp_path) == {"language": ["en"], "task_categories": ["a"]}


def test_a_card_does_not_hang_on_the_day(hub: Path, gen: Callable[..., Ran], tmp_path: Path) -> None:
    manifest = read_manifest(hub / "pairs")
    assert card(manifest) == card(replace(manifest, created="2001-01-01T00:00:00+00:00"))
    assert digest(card(manifest)) != digest(card(replace(manifest, dataset="0" * 64)))
