"""Whose fault an error is: of the rows that were run, or of the machine, the storage or the set-up."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from textsmooth.schemas.errors import ConflictError, DatasetError, MachineError, StorageError, TextsmoothError, UsageError, first_line

log = logging.getLogger(__name__)

MACHINE = (OSError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
SET_UP = (UsageError, ConflictError, DatasetError, StorageError, MachineError)
SAID = ("CUDA error", "CUDA driver error", "HIP error", "cuDNN error", "CUBLAS_STATUS_", "can't allocate memory")  # in plain RuntimeErrors


class RowsError(Exception):
    """What rows of a unit caused; its message is one line."""


def said(error: BaseException) -> str:
    """What an error says in one line; of one that is none of ours, also what kind it is."""
    return str(error) if isinstance(error, TextsmoothError) else f"{type(error).__name__}: {first_line(error)}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, what caused it, and what caused that."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def of_machine(error: BaseException) -> bool:
    """Whether an error comes from the machine: memory, a device, a file; the same rows may do well on another one."""
    return any(
        isinstance(found, MACHINE) or (isinstance(found, RuntimeError) and any(words in str(found) for words in SAID))
        for found in _chain(error)
    )


@contextmanager
def blaming_rows(where: str) -> Iterator[None]:
    """Around what is done with rows that were read: their errors become RowsError, those of the machine MachineError naming `where`."""
    try:
        yield
    except (RowsError, *SET_UP):
        raise
    except Exception as error:
        if not of_machine(error):
            log.info("%s failed", where, exc_info=True)
            raise RowsError(said(error)) from error
        if isinstance(error, (TextsmoothError, OSError)):
            raise
        advice = "lower --max-batch-tokens or --rows-per-shard" if _no_memory(error) else "see to the device"
        raise MachineError(f"{where}: {said(error)}; {advice}, then run the same command again: finished units are kept") from error


def _no_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)
