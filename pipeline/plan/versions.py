"""Versions of everything that decides the bytes of a shard."""

import hashlib
import importlib.metadata
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from pathlib import Path

from textsmooth.schemas.codecs import CODECS, parse_codec
from textsmooth.schemas.version import VERSION
from textsmooth.stages.corpus.formats import FORMATS

# Label -> source file. A label is hashed, the path is not: where a file is moved, its label stays, and so does the code digest.
DECIDES_BYTES = {
    "answer spans": "stages/tokens/answer_spans.py",
    "bad rows": "pipeline/units/bad_rows.py",
    "blame": "pipeline/units/blame.py",
    "codec": "stages/soft_ids/codec.py",
    "codecs": "schemas/codecs.py",
    "column types": "stages/corpus/column_types.py",
    "config": "schemas/config.py",
    "file formats": "stages/corpus/formats.py",
    "masked context": "stages/tokens/masked_context.py",
    "model": "stages/models/load.py",
    "padding": "stages/tokens/padding.py",
    "plan": "schemas/plan.py",
    "reader": "stages/corpus/reader.py",
    **{f"reader of {name}": f"stages/corpus/{name}.py" for name in (type(f).__module__.rpartition(".")[2] for f in FORMATS.values())},
    "rows": "pipeline/plan/rows.py",
    "shard": "stages/soft_ids/shard.py",
    "shard columns": "pipeline/units/shard_columns.py",
    "shard schema": "schemas/shard.py",
    "soft ids": "schemas/soft_ids.py",
    "source file": "stages/corpus/source_file.py",
    "task teacher": "stages/models/task_teacher.py",
    "task kinds": "schemas/task_kinds.py",
    "tasks": "schemas/tasks.py",
    "teacher": "stages/models/teacher.py",
    "tokenizer": "stages/tokens/load.py",
    "tokenize": "stages/tokens/tokenize.py",
    "top-k": "stages/soft_ids/topk.py",
    "worker": "pipeline/units/worker.py",
}

LIBRARIES = ("torch", "transformers", "tokenizers", "pyarrow", "numpy")  # of every codec


@cache
def code_digest() -> str:
    """16 hex digits over the texts of the source files that decide the bytes of a shard."""
    import textsmooth.pipeline
    import textsmooth.schemas
    import textsmooth.stages

    folders = {m.__name__.rpartition(".")[2]: Path(m.__path__[0]) for m in (textsmooth.schemas, textsmooth.stages, textsmooth.pipeline)}
    files = {label: folders[path.partition("/")[0]] / path.partition("/")[2] for label, path in DECIDES_BYTES.items()}
    files |= {f"codec {name}": Path(str(import_module(spec.module).__file__)) for name, spec in CODECS.items()}
    total = hashlib.sha256()
    for label, file in sorted(files.items()):
        total.update(label.encode() + b"\0" + file.read_bytes())
    return total.hexdigest()[:16]


def library_versions(names: Iterable[str]) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in names}


def versions(device: str, codec: str) -> dict[str, str]:
    """Versions of everything that could change the bytes of a shard of that codec, the device's model among them."""
    from textsmooth.stages.models.device import device_name  # torch, which much of what imports this module never needs

    libraries = library_versions((*LIBRARIES, *parse_codec(codec)[0].libraries))
    return {"textsmooth": VERSION, "code": code_digest(), "device": device_name(device), **libraries}
