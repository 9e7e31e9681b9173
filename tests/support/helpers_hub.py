"""Repositories for the stand-in Hub, and a process that talks to it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_gen import rows, write_jsonl, write_parquet

GLUE = """---
license: other
configs:
- config_name: qnli
  data_files:
  - {split: train, path: qnli/train-*}
  - {split: validation, path: qnli/validation-*}
  - {split: test, path: qnli/test-*}
- config_name: wnli
  data_files:
  - {split: train, path: wnli/train-*}
---
# GLUE
"""
REVIEWS = """---
license: cc-by-4.0
configs:
- config_name: single
  default: true
  data_files:
  - {split: train, path: single/train-*.parquet}
  - {split: validation, path: single/validation-*.parquet}
- config_name: table
  sep: ";"
  data_files:
  - {split: train, path: table/*.csv}
---
"""
TABLES = """---
configs:
- config_name: table
  sep: ";"
  data_files:
  - {split: train, path: table/*.csv}
dataset_info:
- config_name: table
  features:
  - {name: text, dtype: string}
  - {name: label, dtype: {class_label: {names: {'0': bad, '1': good}}}}
---
"""


def make_datasets(root: Path) -> None:
    """nyu-mll/glue, and tiny/: reviews (configs, two shards), tables (csv), bare (no README), script, pictures, outside and elsewhere
    (name files of others), copy (as refs/convert/parquet has it), partial."""
    glue, tiny = root / "datasets/nyu-mll/glue", root / "datasets/tiny"
    glue.mkdir(parents=True)
    (glue / "README.md").write_text(GLUE)
    for split, count, seed in (("train", 25, 1), ("validation", 9, 2), ("test", 7, 3)):
        found = [
            {"question": r["question"], "sentence": r["sentence"], "label": r["idx"] % 2, "idx": r["idx"]}
            for r in rows(count, seed, pair=True)
        ]
        found = [{**r, "label": -1} for r in found] if split == "test" else found
        write_parquet(glue / f"qnli/{split}-00000-of-00001.parquet", found, group=10, classes=("entailment", "not_entailment"))
    write_parquet(glue / "wnli/train-00000-of-00001.parquet", [{"sentence1": "a", "sentence2": "b", "label": 0}], group=10)

    reviews = tiny / "reviews"
    labelled = [{**r, "label": r["idx"] % 2} for r in rows(60, 4)]
    write_parquet(reviews / "single/train-00000.parquet", labelled[:31], group=5, classes=("no", "yes"))
    write_parquet(reviews / "single/train-00001.parquet", labelled[31:], group=100, classes=("no", "yes"))
    held_out = [{**r, "label": r["idx"] % 2} for r in rows(9, 14)]
    write_parquet(reviews / "single/validation-00000.parquet", held_out, group=4, classes=("no", "yes"))
    (reviews / "README.md").write_text(REVIEWS)
    for folder in (reviews, tiny / "tables"):
        (folder / "table").mkdir(parents=True)
        (folder / "table/all.csv").write_text('text;label\n"a good; film";1\nbad, very bad;0\n')
    (tiny / "tables/README.md").write_text(TABLES)
    for name in ("bare", "script", "pictures", "outside", "elsewhere"):
        (tiny / name).mkdir()
    for split in ("train", "test"):
        write_jsonl(tiny / f"bare/{split}.jsonl", rows(12, 5))
    (tiny / "script/script.py").write_text("raise SystemExit('run')\n")
    (tiny / "pictures/a.png").write_bytes(b"\x89PNG")
    (tiny / "outside/README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files: {root}/secret.jsonl\n---\n")
    (tiny / "elsewhere/README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: hf://datasets/tiny/bare/train.jsonl\n---\n"
    )
    write_jsonl(root / "secret.jsonl", rows(3))
    for repo, split in (("copy", "train"), ("partial", "partial-train")):
        for config in ("one", "two"):
            for number in range(2):
                write_parquet(tiny / f"{repo}/{config}/{split}/{number:04}.parquet", rows(5, number), group=5)


def make_models(root: Path, teacher: Path) -> None:
    """tiny/bert with files that no teacher needs, tiny/sharded, tiny/pickled (no safetensors), tiny/empty."""
    tiny = root / "models/tiny"
    shutil.copytree(teacher, tiny / "bert")
    for name in ("modeling_evil.py", "pytorch_model.bin", "onnx/model.onnx", "fp16/model.safetensors"):
        (tiny / "bert" / name).parent.mkdir(exist_ok=True)
        (tiny / "bert" / name).write_bytes(b"not needed")
    (tiny / "bert/README.md").write_text("---\nlicense: mit\n---\n")
    from transformers import AutoModelForMaskedLM

    AutoModelForMaskedLM.from_pretrained(teacher).save_pretrained(tiny / "sharded", max_shard_size="15KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(teacher / name, tiny / "sharded" / name)
    (tiny / "pickled").mkdir()
    shutil.copy(teacher / "config.json", tiny / "pickled")
    (tiny / "pickled/pytorch_model.bin").write_bytes(b"pickle")
    (tiny / "empty").mkdir()
    (tiny / "empty/README.md").write_text("nothing\n")


def moved(folder: Path, to: Path, path: str, lines: list[dict[str, Any]]) -> Path:
    """A copy of a repository with other rows in one Parquet file: the next commit of a branch."""
    shutil.copytree(folder, to)
    pq.write_table(pa.Table.from_pylist(lines), to / path)
    return to


@contextmanager
def at_hub(patch: pytest.MonkeyPatch, home: Path, endpoint: str) -> Iterator[None]:
    """This process with another HF_HOME, online, at an endpoint: what the variables would do if they were read again."""
    import datasets
    from huggingface_hub import HfFileSystem, close_session, constants

    settings = {
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_HUB_OFFLINE": False,
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    }
    for name, value in settings.items():
        patch.setattr(constants, name, value)
    patch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    patch.setattr(datasets.config, "HF_ENDPOINT", endpoint)
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        patch.delenv(name, raising=False)
    HfFileSystem.clear_instance_cache()
    close_session()
    yield
    close_session()


def go_offline(patch: pytest.MonkeyPatch) -> None:
    """HF_HUB_OFFLINE=1."""
    import datasets
    from huggingface_hub import constants

    patch.setattr(constants, "HF_HUB_OFFLINE", True)
    patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def bodies(log: list[str]) -> list[str]:
    """Requests of a log that asked for whole files or parts of them, as `path range`."""
    return [line.split(" ", 1)[1] for line in log if line.startswith("GET ") and ("/resolve/" in line or "/cdn/" in line)]


def plan_of(folder: Path) -> dict[str, Any]:
    """plan.json."""
    found: dict[str, Any] = json.loads((folder / "plan.json").read_bytes())
    return found
