"""Attribute an error to the rows that were run, or to the machine, the storage or the set-up."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from textsmooth.schemas.errors import ConflictError, DatasetError, MachineError, StorageError, TextsmoothError, UsageError, first_line

log = logging.getLogger(__name__)

MACHINE_ERRORS = (OSError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
SET_UP_ERRORS = (UsageError, ConflictError, DatasetError, StorageError, MachineError)
MACHINE_WORDS = (  # in plain RuntimeErrors
    *("CUDA error", "CUDA driver error", "HIP error", "cuDNN error", "CUBLAS_STATUS_"),
    "can't allocate memory",
)


class RowsError(Exception):
    """An error that rows of a unit caused; its message is one line."""


def message_of(error: BaseException) -> str:
    """The message of an error in one line; with its type, if it is none of ours."""
    return str(error) if isinstance(error, TextsmoothError) else f"{type(error).__name__}: {first_line(error)}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, its cause, the cause of that, and so on."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def of_machine(error: BaseException) -> bool:
    """Whether an error comes from the machine: memory, a device, a file. The same rows may work on another machine."""
    return any(
        isinstance(link, MACHINE_ERRORS) or (isinstance(link, RuntimeError) and any(words in str(link) for words in MACHINE_WORDS))
        for link in _chain(error)
    )


@contextmanager
def blaming_rows(unit: str) -> Iterator[None]:
    """Turn errors of the block into a RowsError, or into a MachineError that names the unit if they come from the machine."""
    try:
        yield
    except (RowsError, *SET_UP_ERRORS):
        raise
    except Exception as error:
        if not of_machine(error):
            log.info("%s failed", unit, exc_info=True)
            raise RowsError(message_of(error)) from error
        if isinstance(error, (TextsmoothError, OSError)):
            raise
        no_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)
        advice = "lower --max-batch-tokens or --rows-per-shard" if no_memory else "check the device"
        raise MachineError(f"{unit}: {message_of(error)}; {advice}, then run the same command again: finished units are kept") from error
