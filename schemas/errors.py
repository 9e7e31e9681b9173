"""The few exceptions users meet. The command line turns each into one line and its exit code."""


class TextsmoothError(Exception):
    """Something went wrong that a user can act on; the message says what, and what to do next."""

    exit_code = 1


class UsageError(TextsmoothError, ValueError):
    """A value that was asked for cannot work: an unknown corpus, a column that is not there, k > V."""

    exit_code = 2


class CorpusError(TextsmoothError):
    """The corpus cannot be read, is empty, or changed while it was being read."""


class TeacherError(TextsmoothError):
    """The teacher (or student) cannot be loaded, or is not what the work at hand needs."""


class DatasetError(TextsmoothError):
    """A folder is not a whole smoothed dataset: no manifest, an altered file, a shard that does not fit."""


class StorageError(TextsmoothError):
    """The storage said no: no space, no permission, not a folder."""


class WorkerError(TextsmoothError):
    """Workers on a cluster cannot be had, or do not run what the driver runs."""


class MachineError(TextsmoothError):
    """The machine gave up: no memory, a device that failed or cannot do what is asked, a unit that does not end."""


class QuarantineError(TextsmoothError):
    """Everything is done but units whose rows fail; they are in quarantine.jsonl."""

    exit_code = 3


class ConflictError(TextsmoothError):
    """The output folder holds something else; nothing was touched."""


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
