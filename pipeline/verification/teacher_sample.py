"""Compare a sample of rows with the teacher: `textsmooth verify --against-teacher N`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from textsmooth.pipeline.formatting import counted
from textsmooth.pipeline.verification.repair import checked_model
from textsmooth.schemas.config import DTYPES, GenerationConfig
from textsmooth.schemas.errors import UsageError
from textsmooth.schemas.manifest import Manifest
from textsmooth.stages.checks.shard import Finding
from textsmooth.stages.soft_ids.codec import TokenBlock, find_codec
from textsmooth.stages.storage.folder import Folder

if TYPE_CHECKING:
    from textsmooth.stages.checks.teacher import Differences


@dataclass(frozen=True, kw_only=True)
class SecondOpinion:
    """Distances between the stored soft ids of a sample and the teacher's output now, each with its limit."""

    teacher: str
    device: str
    dtype: str
    rows: int
    windows: int | None  # of these rows, if long rows were cut
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
        stored = (
            f"; log-partitions differ by at most {self.partition_max:.2g} (limit {self.partition_limit:g})" if self.partition_max else ""
        )
        windows = "" if self.windows is None else f", {counted(self.windows, 'window')}"
        rows = counted(self.rows, "row") + windows
        return (
            f"  teacher {self.teacher} on {self.device} in {self.dtype}: {rows}, {self.tokens:,} tokens compared\n"
            f"    KL mean {self.kl_mean:.2g}, max {self.kl_max:.2g} (limit {self.kl_limit:g}); total variation mean "
            f"{self.variation_mean:.2g} (limit {self.variation_mean_limit:g}), max {self.variation_max:.2g} "
            f"(limit {self.variation_limit:g});\n"
            f"    {self.ids_differ:,} of {self.ids:,} ids differ, {share:.2%} (limit {self.ids_limit:.1%}){stored}"
        )


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """Sampled rows of all splits, with the split and the shard of each."""

    block: TokenBlock
    splits: list[str]
    paths: list[str]


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
    """Run a sample of rows through the teacher again and compare; findings name the worst token beyond the limits in each shard.

    count: rows over all splits, or windows where long rows were cut. teacher: folder or name, by default that of the manifest.
    device, dtype: by default those of the plan, where this machine has them.
    Raises UsageError if the teacher is not found, TeacherError if it is a different one.
    """
    import torch

    from textsmooth.stages.checks.teacher import LIMITS, differences
    from textsmooth.stages.models.device import computes, pick_device
    from textsmooth.stages.models.teacher import Teacher

    config, known = GenerationConfig.from_json(manifest.config), manifest.teacher
    model = checked_model(teacher, known, "--teacher", known["digest"])
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    device = pick_device(device) if device or config.device != "cuda" or not torch.cuda.is_available() else "cuda"
    dtype = dtype or (config.dtype if computes(device, config.dtype) else "float32")
    limits = max((LIMITS[dtype], LIMITS[config.dtype]), key=lambda limit: limit.kl)
    limits = limits.with_rounding(find_codec(config.codec).most_variation, config.topk)
    sample = _sample(folder, manifest, count, seed)
    block = sample.block
    loaded = Teacher(
        model.folder,
        dtype=getattr(torch, dtype),
        device=device,
        vocab_size=known["vocab_size"],
        pad_id=manifest.special_ids.get("pad") or 0,
    )
    seen = differences(loaded, block, config, vocab_size=known["vocab_size"], mask_id=manifest.special_ids.get("mask"))
    opinion = SecondOpinion(
        teacher=model.name,
        device=device,
        dtype=dtype,
        rows=len(set(zip(sample.splits, block.row.tolist(), strict=True))),
        windows=None if block.window is None else len(block),
        tokens=len(seen.token),
        kl_mean=float(seen.kl.mean()) if len(seen.token) else 0.0,
        kl_max=float(seen.kl.max(initial=0.0)),
        kl_limit=limits.kl,
        variation_mean=float(seen.variation.mean()) if len(seen.token) else 0.0,
        variation_mean_limit=limits.mean_variation,
        variation_max=float(seen.variation.max(initial=0.0)),
        variation_limit=limits.variation,
        ids=int(seen.entries.sum()),
        ids_differ=int(seen.ids.sum()),
        ids_limit=limits.ids,
        partition_max=float(seen.partition.max(initial=0.0)),
        partition_limit=limits.partition,
    )
    return opinion, _findings(opinion, seen, sample)


def _sample(folder: Folder, manifest: Manifest, count: int, seed: int) -> _Sample:
    from textsmooth.stages.dataset.dataset import SmoothedDataset
    from textsmooth.stages.dataset.row_gather import concatenate

    rng = np.random.default_rng(seed)
    splits = [SmoothedDataset(folder.where, split, verify=False) for split in manifest.splits]
    ends = np.cumsum([len(split) for split in splits])
    chosen = np.sort(rng.choice(int(ends[-1]), min(count, int(ends[-1])), replace=False))
    split_number = np.searchsorted(ends, chosen, side="right")
    parts = [(split, chosen[split_number == number] - (ends[number] - len(split))) for number, split in enumerate(splits)]
    return _Sample(
        block=concatenate([split.batch(rows) for split, rows in parts if len(rows)]),
        splits=[split.name for split, rows in parts for _ in rows],
        paths=[split.shards[shard].path for split, rows in parts for shard in split.shards_of(rows).tolist()],
    )


def _findings(opinion: SecondOpinion, seen: "Differences", sample: _Sample) -> list[Finding]:
    """The worst token beyond the limits in each shard; if none is, one finding where the means are beyond them."""
    block, paths = sample.block, np.array(sample.paths)
    findings: list[Finding] = []
    within = (seen.kl <= opinion.kl_limit) & (seen.variation <= opinion.variation_limit) & (seen.partition <= opinion.partition_limit)
    row_of = np.searchsorted(block.row_offsets, seen.token, side="right") - 1
    for path in dict.fromkeys(sample.paths):
        beyond = np.flatnonzero(~within & (paths[row_of] == path))
        if len(beyond):
            worst = int(beyond[np.argmax(seen.variation[beyond])])
            row = int(row_of[worst])
            findings.append(
                Finding(
                    path=path,
                    what=f"differs from the teacher: KL {seen.kl[worst]:.3g}, total variation {seen.variation[worst]:.3g}",
                    row=int(block.row[row]),
                    window=None if block.window is None else int(block.window[row]),
                    token=int(seen.token[worst] - block.row_offsets[row]),
                    more=len(beyond) - 1,
                )
            )
    if not findings and (opinion.variation_mean > opinion.variation_mean_limit or opinion.ids_differ > opinion.ids_limit * opinion.ids):
        share = opinion.ids_differ / max(opinion.ids, 1)
        what = f"differs from the teacher: mean total variation {opinion.variation_mean:.3g}, {share:.2%} of the ids differ"
        findings.append(Finding(path=sample.paths[0], what=what, row=int(block.row[0])))
    return findings
