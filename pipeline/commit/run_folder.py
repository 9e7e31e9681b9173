"""The folder of a run: publish its plan, read it back, remove a run of textsmooth."""

import re

from textsmooth.pipeline.commit.receipts import remove_receipts
from textsmooth.schemas.errors import ConflictError, DatasetError
from textsmooth.schemas.manifest import CARD, MANIFEST, PLAN, QUARANTINE, RECEIPTS, RUN, TOKENIZER_FOLDER
from textsmooth.schemas.plan import Plan
from textsmooth.stages.storage.atomic import pretty_json
from textsmooth.stages.storage.folder import Folder, is_temp, read_json


def publish_plan(out: Folder, plan: Plan, *, overwrite: bool) -> bool:
    """Put a new plan in place; False if another driver was first."""
    if overwrite:
        _clear(out)
    return out.put_exclusive(PLAN, pretty_json(plan.to_json()))


def plan_in(out: Folder, *, overwrite: bool) -> Plan | None:
    """The plan in a folder, None if there is none or it will be overwritten. ConflictError if the folder holds something else."""
    if not out.exists():
        return None
    planned, finished = out.size(PLAN) is not None, out.size(MANIFEST) is not None
    if overwrite:
        if not any(_is_ours(out, name) for name in (PLAN, MANIFEST)) and not out.empty():
            raise ConflictError(f"--overwrite removes only runs of textsmooth, and {out} holds none; give another --out")
        return None
    if planned:
        try:
            return Plan.from_json(read_json(out, PLAN))
        except DatasetError as error:
            raise DatasetError(f"{out}: {error}; start again with --overwrite, or give another --out") from None
    if finished:
        raise ConflictError(f"{out} has a manifest but no {PLAN}: it was made elsewhere or damaged; give another --out")
    if not out.empty(but_temp=True):
        raise ConflictError(f"{out} is not empty and holds no run of textsmooth; give another --out")
    return None


def _is_ours(out: Folder, name: str) -> bool:
    """Whether a file begins as textsmooth writes it: a manifest.json may be anybody's."""
    return out.size(name) is not None and re.match(rb'\s*\{\s*"format"', out.read(name)) is not None


def _clear(out: Folder) -> None:
    """Remove a run of textsmooth: the files that a run makes, and nothing else that may lie beside them."""
    shards = [name for name in out.files() if SHARD.fullmatch(name) or (is_temp(name) and name.count("/") == 1)]
    out.remove((MANIFEST,))  # first: from here on it is no dataset
    out.remove((CARD, RECEIPTS, TOKENIZER_FOLDER, RUN, QUARANTINE))
    remove_receipts(out)
    out.remove(shards)
    out.prune(sorted({shard.partition("/")[0] for shard in shards}))
    out.remove((PLAN,))  # last: until here a run of textsmooth can be recognised


SHARD = re.compile(r"[^/]+/\d{5,}-[0-9a-f]{12}\.arrow")  # as units name them
