"""Compare two datasets: provenance, numbers, shards, and the soft ids of shared rows: `textsmooth diff`."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import isclose
from pathlib import Path
from typing import Any

from textsmooth.pipeline.formatting import columns
from textsmooth.pipeline.share.row_comparison import SharedRows, shared_rows
from textsmooth.schemas.errors import DatasetError
from textsmooth.schemas.manifest import PLAN, Manifest
from textsmooth.schemas.plan import Plan
from textsmooth.schemas.printable import printable
from textsmooth.stages.dataset.dataset import SmoothedDataset
from textsmooth.stages.dataset.open import open_folder, read_manifest
from textsmooth.stages.soft_ids.statistics import captured_by_temperature
from textsmooth.stages.storage.folder import Folder, read_json

ROWS = 256  # sampled by default
GROUPS = ("corpus", "teacher", "task_teacher", "config", "versions")
ALIKE = 1e-6  # relative tolerance for sums in another order
SMOOTHED = "smoothed tokens"
WIDEST = 48  # characters of a value in a table


@dataclass(frozen=True, kw_only=True)
class Change:
    """A value that differs. None: the dataset does not have it."""

    what: str
    a: Any
    b: Any


@dataclass(frozen=True, kw_only=True)
class SharedShards:
    """Numbers of equal shards."""

    a: int
    b: int
    same_bytes: int  # shards with a sha256 that both have
    same_units: int | None  # units with the same rows, teacher and settings, by unit id; None without both plans


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The result of a comparison."""

    a: str
    b: str
    digests: tuple[str, str]
    provenance: tuple[Change, ...]
    numbers: tuple[Change, ...]
    shards: SharedShards
    rows: SharedRows | None
    note: str | None = None  # why rows were not compared

    @property
    def same(self) -> bool:
        """Whether the dataset digests are equal."""
        return self.digests[0] == self.digests[1]

    def to_json(self) -> dict[str, Any]:
        return {"same": self.same, **asdict(self)}

    @property
    def verdict(self) -> str:
        """The result in one line."""
        if self.same:
            return f"the same dataset: {self.digests[0][:12]}"
        if self.shards.same_bytes == self.shards.a == self.shards.b:
            return f"all {self.shards.a:,} shards are equal, but the datasets differ: {self._named(self.provenance)}"
        return f"different: {self._named(self.provenance or self.numbers)}; {self._shards()}"

    def _named(self, changes: tuple[Change, ...]) -> str:
        names = [change.what for change in changes]
        return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") if names else "other units"

    def _shards(self) -> str:
        shards = self.shards
        of = f"{shards.a:,}" if shards.a == shards.b else f"{shards.a:,} and {shards.b:,}"
        return f"{shards.same_bytes:,} of {of} shards are equal"

    def summary(self) -> str:
        """The output of the command: the verdict, then only the differences."""
        lines = [self.verdict, f"  A  {self.a}  {self.digests[0][:12]}", f"  B  {self.b}  {self.digests[1][:12]}"]
        if self.provenance:
            changed = [(printable(c.what), _shown(c.a), _shown(c.b)) for c in self.provenance]
            lines += ["", *columns([("provenance", "A", "B"), *changed], right=False)]
        if self.numbers:
            lines += ["", *columns([("numbers", "A", "B", ""), *((printable(c.what), *_pair(c.a, c.b)) for c in self.numbers)])]
            smoothed = next((c for c in self.numbers if c.what == SMOOTHED), None)
            lines += [f"no token of {name} is smoothed" for name in ("A", "B") if smoothed and getattr(smoothed, name.lower()) == 0]
        if not self.same:
            units = self.shards.same_units
            other = units - self.shards.same_bytes if units is not None else 0
            more = f"; {other:,} more units are the same but differ in bytes (libraries, device)" if other > 0 else ""
            lines += ["", f"shards  {self._shards()}{more}"]
        if self.rows is not None:
            lines += ["", *self.rows.lines()]
        if self.note:
            lines += ["", self.note]
        return "\n".join(map(printable, lines))


def diff(a: str | Path, b: str | Path, *, rows: int = ROWS) -> Difference:
    """Compare two datasets given as paths, URIs or names on the Hub. rows: number of rows of A to look up in B.

    Raises UsageError or DatasetError if one is not a finished dataset, or a shard that is read was altered.
    """
    folders = open_folder(a, reading=True), open_folder(b, reading=True)
    one, other = (read_manifest(folder) for folder in folders)
    row_comparison, note = None, None
    if one.dataset != other.dataset and rows:
        splits = [split for split in one.splits if split in other.splits]
        if one.teacher["vocab_digest"] != other.teacher["vocab_digest"]:
            note = "Rows are not compared: the teachers have different vocabularies."
        elif not splits:
            note = f"Rows are not compared: A has {', '.join(one.splits)}, B has {', '.join(other.splits)}."
        else:
            row_comparison = shared_rows([(SmoothedDataset(a, s), SmoothedDataset(b, s)) for s in splits], rows)
    return Difference(
        a=str(a),
        b=str(b),
        digests=(one.dataset, other.dataset),
        provenance=tuple(_changes(_provenance(one), _provenance(other))),
        numbers=tuple(_changes(_numbers(one), _numbers(other))),
        shards=_shared_shards(folders, (one, other)),
        rows=row_comparison,
        note=note,
    )


def _changes(one: dict[str, Any], other: dict[str, Any]) -> Iterator[Change]:
    for name in {**one, **other}:
        a, b = one.get(name), other.get(name)
        if a != b and not (isinstance(a, float) and isinstance(b, float) and isclose(a, b, rel_tol=ALIKE)):
            yield Change(what=name, a=a, b=b)


def _provenance(manifest: Manifest) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for group in GROUPS:
        for name, value in (getattr(manifest, group) or {}).items():
            values[f"{group.replace('_', ' ')} {name.replace('_', ' ')}"] = value
    if manifest.predecessor:
        values["predecessor"] = manifest.predecessor["dataset"]
    if manifest.sources:
        values["merged from"] = [source["dataset"][:12] for source in manifest.sources]
    if manifest.partial_of:
        values["part of"] = manifest.partial_of
    return values


def _numbers(manifest: Manifest) -> dict[str, Any]:
    statistics = dict(manifest.statistics)
    captured, original = captured_by_temperature(statistics), statistics["p_original"]
    if not captured:  # statistics of no tokens mean nothing
        del statistics["entries_per_token"]
        original = {}
    for name in ("captured_mass", "captured_mass_by_temperature", "p_original", "p_original_bins"):
        statistics.pop(name, None)
    by_split = {f"rows of {split}": sum(s.rows - s.skipped for s in manifest.split(split)) for split in manifest.splits}
    return {
        **by_split,
        **{name.replace("_", " "): value for name, value in statistics.items() if name != "rows"},
        **{
            f"captured mass at k = {k}{'' if t == 1.0 else f', temperature {t:g}'}": value
            for t, masses in captured.items()
            for k, value in masses.items()
        },
        **{f"p(original) {name}": value for name, value in original.items()},
    }


def _shared_shards(folders: tuple[Folder, Folder], manifests: tuple[Manifest, Manifest]) -> SharedShards:
    bytes_a, bytes_b = (Counter(shard.sha256 for shard in manifest.shards) for manifest in manifests)
    units = [_units(folder, manifest) for folder, manifest in zip(folders, manifests, strict=True)]
    return SharedShards(
        a=len(manifests[0].shards),
        b=len(manifests[1].shards),
        same_bytes=(bytes_a & bytes_b).total(),
        same_units=None if units[0] is None or units[1] is None else len(units[0] & units[1]),
    )


def _units(folder: Folder, manifest: Manifest) -> set[str] | None:
    """Ids of the units whose shards the dataset has; None without a readable plan."""
    try:
        plan = Plan.from_json(read_json(folder, PLAN))
    except (FileNotFoundError, DatasetError):
        return None
    names = {shard.path.rpartition(".")[0].partition("-")[0] for shard in manifest.shards}
    return {unit.id for unit in plan.units if unit.name in names}


def _shown(value: Any) -> str:
    text = "-" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text[:12] if len(text) == 64 and all(char in "0123456789abcdef" for char in text) else printable(text)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def _pair(a: Any, b: Any) -> tuple[str, str, str]:
    """Two numbers and their difference."""
    if not all(isinstance(value, int | float) and abs(value) < 1e100 for value in (a, b)):
        return _number(a), _number(b), ""
    more = b - a
    share = f" ({more / a:+.1%})" if a and isinstance(a, int) and abs(more / a) < 10 else ""
    return _number(a), _number(b), f"{more:+,}{share}" if isinstance(more, int) else f"{more:+.4g}"


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if isinstance(value, float) else _shown(value)
