"""The one place where the version of the package and of its on-disk format is written down."""

VERSION = "0.1.0"

# Raised when a reader of the old format would misread the new one.
FORMAT_VERSION = 1
