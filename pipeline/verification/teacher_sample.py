"""Some rows of a dataset through its teacher again: `textsmooth verify --against-teacher N`."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from textsmooth.pipeline.formatting import counted
from textsmooth.pipeline.verification.repair import known_model
from textsmooth.schemas.config import DTYPES, GenerationConfig
from textsmooth.schemas.errors import TeacherError, UsageError
from textsmooth.schemas.manifest import Manifest
from textsmooth.stages.checks.shard import Finding
from textsmooth.stages.storage.folder import Folder


@dataclass(frozen=True, kw_only=True)
class SecondOpinion:
    """How far the stored soft ids of a sample are from what the teacher says now, and how far they may be."""

    teacher: str
    device: str
    dtype: str
    rows: int
    windows: int | None  # of these rows, where long ones were cut
    tokens: int
    kl_mean: float
    kl_max: float
    kl_limit: float
    variation_mean: float
    variation_mean_limit: float
    variation_max: float
    variation_limit: float
    ids: int  # entries compared
    ids_differ: int
    ids_limit: float  # share
    partition_max: float
    partition_limit: float

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))

    def summary(self) -> str:
        share = self.ids_differ / max(self.ids, 1)
        stored = f"; log-partitions off by at most {self.partition_max:.2g} (limit {self.partition_limit:g})" if self.partition_max else ""
        windows = "" if self.windows is None else f", {counted(self.windows, 'window')}"
        rows = counted(self.rows, "row") + windows
        return (
            f"  teacher {self.teacher} on {self.device} in {self.dtype}: {rows}, {self.tokens:,} tokens again\n"
            f"    KL mean {self.kl_mean:.2g}, max {self.kl_max:.2g} (limit {self.kl_limit:g}); total variation mean "
            f"{self.variation_mean:.2g} (limit {self.variation_mean_limit:g}), max {self.variation_max:.2g} "
            f"(limit {self.variation_limit:g});\n"
            f"    {self.ids_differ:,} of {self.ids:,} ids differ, {share:.2%} (limit {self.ids_limit:.1%}){stored}"
        )


def second_opinion(
    folder: Folder,
    manifest: Manifest,
    count: int,
    *,
    teacher: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    seed: int = 0,
) -> tuple[SecondOpinion, list[Finding]]:
    """Run `count` rows, drawn over all splits, through the teacher again; what is beyond the limits, the worst token of each shard first.

    Where long rows were cut, `count` of their windows.

    teacher: a folder or name; default: the manifest's name. device, dtype: default: the plan's, where this machine has them.
    Raises UsageError or TeacherError if the teacher is not to be had, or is another one.
    """
    import torch

    from textsmooth.stages.checks.teacher import LIMITS, differences
    from textsmooth.stages.dataset.dataset import SmoothedDataset
    from textsmooth.stages.dataset.row_gather import concatenate
    from textsmooth.stages.models.device import computes, pick_device
    from textsmooth.stages.models.load import teacher_digest
    from textsmooth.stages.models.teacher import Teacher

    config, known = GenerationConfig.from_json(manifest.config), manifest.teacher
    found = known_model(teacher, known, "--teacher")
    digest = teacher_digest(found.folder)
    if digest != known["digest"]:
        raise TeacherError(f"{found.folder} is another teacher: its digest is {digest[:12]}, that of the dataset's {known['digest'][:12]}")
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    where = pick_device(device) if device or config.device != "cuda" or not torch.cuda.is_available() else "cuda"
    kind = dtype or (config.dtype if computes(where, config.dtype) else "float32")
    limits = max((LIMITS[kind], LIMITS[config.dtype]), key=lambda limit: limit.kl)
    rng = np.random.default_rng(seed)
    splits = [SmoothedDataset(folder.where, split, verify=False) for split in manifest.splits]
    ends = np.cumsum([len(split) for split in splits])
    chosen = np.sort(rng.choice(int(ends[-1]), min(count, int(ends[-1])), replace=False))
    which = np.searchsorted(ends, chosen, side="right")
    parts = [(split, chosen[which == number] - (ends[number] - len(split))) for number, split in enumerate(splits)]
    block = concatenate([split.batch(rows) for split, rows in parts if len(rows)])
    split_of = [split.name for split, rows in parts for _ in rows]
    paths = [split.shards[shard].path for split, rows in parts for shard in split.shards_of(rows).tolist()]
    model = Teacher(
        found.folder,
        dtype=getattr(torch, kind),
        device=where,
        vocab_size=known["vocab_size"],
        pad_id=manifest.special_ids.get("pad") or 0,
    )
    seen = differences(model, block, config, vocab_size=known["vocab_size"], mask_id=manifest.special_ids.get("mask"))
    ids, differ, mean = int(seen.entries.sum()), int(seen.ids.sum()), float(seen.variation.mean()) if len(seen.token) else 0.0
    opinion = SecondOpinion(
        teacher=found.name,
        device=where,
        dtype=kind,
        rows=len(set(zip(split_of, block.row.tolist(), strict=True))),
        windows=None if block.window is None else len(block),
        tokens=len(seen.token),
        kl_mean=float(seen.kl.mean()) if len(seen.token) else 0.0,
        kl_max=float(seen.kl.max(initial=0.0)),
        kl_limit=limits.kl,
        variation_mean=mean,
        variation_mean_limit=limits.mean_variation,
        variation_max=float(seen.variation.max(initial=0.0)),
        variation_limit=limits.variation,
        ids=ids,
        ids_differ=differ,
        ids_limit=limits.ids,
        partition_max=float(seen.partition.max(initial=0.0)),
        partition_limit=limits.partition,
    )
    findings: list[Finding] = []
    beyond = ~((seen.kl <= limits.kl) & (seen.variation <= limits.variation) & (seen.partition <= limits.partition))
    row_of = np.searchsorted(block.row_offsets, seen.token, side="right") - 1
    for path in dict.fromkeys(paths):
        here = np.flatnonzero(beyond & (np.array(paths)[row_of] == path))
        if len(here):
            worst = int(here[np.argmax(seen.variation[here])])
            row = int(row_of[worst])
            findings.append(
                Finding(
                    path=path,
                    what=f"is not what the teacher says: KL {seen.kl[worst]:.3g}, total variation {seen.variation[worst]:.3g}",
                    row=int(block.row[row]),
                    window=None if block.window is None else int(block.window[row]),
                    token=int(seen.token[worst] - block.row_offsets[row]),
                    more=len(here) - 1,
                )
            )
    if not findings and (mean > limits.mean_variation or differ > limits.ids * ids):
        what = f"is not what the teacher says: total variation {mean:.3g} in the mean, {differ / max(ids, 1):.2%} of the ids differ"
        findings.append(Finding(path=paths[0], what=what, row=int(block.row[0])))
    return opinion, findings
