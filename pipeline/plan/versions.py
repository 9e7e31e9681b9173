"""Versions of everything that decides the bytes of a shard."""

import hashlib
import importlib.metadata
from functools import cache
from pathlib import Path

from textsmooth.schemas.version import VERSION

DECIDES_BYTES = (
    "schemas/config.py",
    "schemas/plan.py",
    "schemas/shard.py",
    "schemas/soft_ids.py",
    "schemas/tasks.py",
    "stages/tokens/padding.py",
    "stages/soft_ids/codec.py",
    "stages/tokens/masked_context.py",
    "stages/corpus/csv.py",
    "stages/corpus/column_types.py",
    "stages/corpus/jsonl.py",
    "stages/models/load.py",
    "stages/corpus/reader.py",
    "stages/soft_ids/shard.py",
    "stages/corpus/source_file.py",
    "stages/tokens/answer_spans.py",
    "stages/soft_ids/topk.py",
    "stages/corpus/arrow.py",
    "stages/models/task_teacher.py",
    "stages/models/teacher.py",
    "stages/tokens/tokenize.py",
    "pipeline/units/bad_rows.py",
    "pipeline/units/shard_columns.py",
    "pipeline/units/blame.py",
    "pipeline/plan/rows.py",
    "pipeline/units/worker.py",
)


@cache
def code_digest() -> str:
    """16 hex digits over the source files that decide the bytes of a shard."""
    import textsmooth.pipeline
    import textsmooth.schemas
    import textsmooth.stages

    rooms = {m.__name__.rpartition(".")[2]: Path(m.__path__[0]) for m in (textsmooth.schemas, textsmooth.stages, textsmooth.pipeline)}
    total = hashlib.sha256()
    for name in DECIDES_BYTES:
        room, _, file = name.partition("/")
        total.update(name.encode() + b"\0" + (rooms[room] / file).read_bytes())
    return total.hexdigest()[:16]


def versions(device: str) -> dict[str, str]:
    """Versions of everything that could change a shard's bytes, the device's model among them."""
    from textsmooth.stages.models.device import device_name  # torch, which much of what imports this module never needs

    libraries = ("torch", "transformers", "tokenizers", "pyarrow", "numpy")
    found = {name: importlib.metadata.version(name) for name in libraries}
    return {"textsmooth": VERSION, "code": code_digest(), "device": device_name(device), **found}
