"""Receipts on storage: what a finished unit leaves, under which name, and when it counts."""

import re
from collections.abc import Callable

from textsmooth.schemas.errors import DatasetError
from textsmooth.schemas.manifest import RECEIPTS_FOLDER
from textsmooth.schemas.plan import Unit
from textsmooth.schemas.receipt import Receipt
from textsmooth.stages.storage.atomic import parse_json, pretty_json
from textsmooth.stages.storage.folder import Folder, is_temp

RECEIPT = re.compile(rf"{RECEIPTS_FOLDER}/[^/]+-\d{{5,}}-[0-9a-f]{{12}}\.json")


def remove_receipts(out: Folder) -> None:
    """Remove the receipts one by one: what else lies in their folder is not ours."""
    out.remove([name for name in out.files(RECEIPTS_FOLDER) if RECEIPT.fullmatch(name) or is_temp(name)])
    out.prune((RECEIPTS_FOLDER,))


def receipt_name(unit: Unit) -> str:
    """Where a unit's receipt stands while the run is not finished."""
    return f"{RECEIPTS_FOLDER}/{unit.split}-{unit.number:05d}-{unit.id[:12]}.json"


def shard_path(unit: Unit, sha256: str) -> str:
    """Where the shard of a unit lies in the dataset: its name carries its content."""
    return f"{unit.split}/{unit.number:05d}-{sha256[:12]}.arrow"


def whole_receipt(data: bytes, unit: Unit, size: Callable[[str], int | None]) -> Receipt | None:
    """The receipt in these bytes, if it is the unit's and its shard is there; None if the unit is still to be done.

    size: of a file of the dataset, None if it is not there.
    """
    try:
        receipt = Receipt.from_json(parse_json(data, receipt_name(unit)))
    except (TypeError, DatasetError):
        return None
    fits = (receipt.unit, receipt.rows, receipt.shard) == (unit.id, unit.rows, shard_path(unit, receipt.sha256))
    return receipt if fits and size(receipt.shard) == receipt.bytes else None


def find_receipt(out: Folder, unit: Unit) -> Receipt | None:
    """The receipt of a unit whose shard is there with the right size; None if the unit is still to be done."""
    try:
        return whole_receipt(out.read(receipt_name(unit)), unit, out.size)
    except FileNotFoundError:
        return None


def publish(out: Folder, unit: Unit, receipt: Receipt) -> Receipt:
    """Put a receipt in place, unless another driver was faster: the first receipt counts, and is given back."""
    name = receipt_name(unit)
    while not out.put_exclusive(name, pretty_json(receipt.to_json())):
        first = find_receipt(out, unit)
        if first is not None:
            return first
        out.remove((name,))  # void: it names a shard that is not there
    return receipt
