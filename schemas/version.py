"""The one place where the version of the package and of its on-disk format is written down."""

from textsmooth.schemas.errors import DatasetError

VERSION = "0.1.0"

# Raised when a reader of the old format would misread the new one.
FORMAT_VERSION = 1
SPAN_FORMAT_VERSION = 2  # of span tasks: `context` is the window's part of the context; in version 1 each window had all of it


def format_version(label_kind: object) -> int:
    """The version of a dataset's plan, shards and manifest, by the kind of its labels."""
    return SPAN_FORMAT_VERSION if label_kind == "span" else FORMAT_VERSION


def check_format(version: object, label_kind: object, name: str) -> None:
    """DatasetError, naming the file, unless this version of textsmooth reads that format."""
    readable = format_version(label_kind)
    if version != readable:
        advice = "generate the dataset again" if type(version) is int and version < readable else "update textsmooth"
        raise DatasetError(f"{name} has format {version!r}, this version of textsmooth reads {readable}; {advice}")
