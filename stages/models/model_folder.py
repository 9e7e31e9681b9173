"""Folders of models: find one, and write one completely or not at all. Loads without torch."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from textsmooth.schemas.errors import ConflictError, StorageError, UsageError
from textsmooth.stages.storage.atomic import TEMP_PREFIX, sync
from textsmooth.stages.storage.local import closest


@contextlib.contextmanager
def new_model_folder(out: Path, *, overwrite: bool, needed_bytes: int = 0) -> Iterator[Path]:
    """A temporary folder beside `out` that replaces it when the block succeeds; if it fails, `out` stays as it was.

    The new folder is durable once the block is left. A kill -9 between the two renames of --overwrite leaves the old model in the temporary
    folder, as `old`.

    needed_bytes: free space to require. Raises StorageError if there is less, or `out` cannot be written; ConflictError if it is not
    empty and overwrite is false, or if it holds anything but a model (which is never deleted).
    """
    from safetensors import SafetensorError

    out = Path(os.path.abspath(out))  # noqa: PTH100 - without following links
    check_out(out, overwrite=overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temp = Path(tempfile.mkdtemp(prefix=f"{TEMP_PREFIX}{out.name}-", dir=out.parent))
        free = shutil.disk_usage(temp).free
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror}; choose another --out") from error
    try:
        if free < needed_bytes:
            raise StorageError(
                f"cannot write {out}: {needed_bytes:,} bytes are needed, {free:,} are free; make room or choose another --out"
            )
        new = temp / "new"
        new.mkdir()
        yield new
        for path in (*(p for p in new.rglob("*") if p.is_file()), new):
            sync(path)  # callers may delete their checkpoints once this block is left
        if out.is_dir():
            out.rename(temp / "old")
        try:
            new.rename(out)
        except BaseException:  # a signal too: put the old model back
            if (temp / "old").is_dir() and not out.exists():
                (temp / "old").rename(out)
            raise
        sync(out.parent)
    except SafetensorError as error:
        raise StorageError(f"cannot write {out}: {error}; choose another --out") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTEMPTY):
            raise
        raise StorageError(f"cannot write {out}: {os.strerror(error.errno)}; make room or choose another --out") from error
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def check_out(out: Path, *, overwrite: bool) -> None:
    """Raise ConflictError unless a model may be saved at `out`."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ConflictError(f"{out} is a file; choose another --out")
    if any(out.iterdir()):
        if not overwrite:
            raise ConflictError(f"{out} is not empty; choose another --out, or replace it with --overwrite")
        if not (out / "config.json").is_file():
            raise ConflictError(f"{out} holds something that is no model, --overwrite does not delete it; choose another --out")


def model_folder(name: str, what: str) -> Path:
    """The folder of a local model. UsageError if there is none."""
    folder = Path(name).expanduser()
    if not (folder / "config.json").is_file():
        reason = "there is no such folder" if not folder.is_dir() else "it has no config.json"
        advice = "make one with `textsmooth student --from TEACHER`" if what == "student" else "give the folder of a local model"
        raise UsageError(f"no {what} at {name}: {reason}{'' if folder.exists() else closest(name)}; {advice}")
    return folder
