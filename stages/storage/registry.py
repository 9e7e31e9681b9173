"""The kinds of object stores, and one connection for each per process.

A new kind is a subclass of Store and its line in KINDS.
"""

import atexit
import os
from threading import Lock
from typing import Any

from textsmooth.schemas.errors import UsageError
from textsmooth.stages.storage.gcs import GcsStore
from textsmooth.stages.storage.object_store import Store, split_uri
from textsmooth.stages.storage.s3 import S3Store

KINDS: dict[str, type[Store]] = {kind.scheme: kind for kind in (S3Store, GcsStore, Store)}  # by scheme; Store is memory://, for tests
SCHEMES = [f"{kind.scheme}://" for kind in KINDS.values() if kind.extra]  # for messages

_stores: dict[tuple[Any, ...], Store] = {}
_lock = Lock()


def open_store(uri: str) -> tuple[Store, str]:
    """The store of a URI, and its path in the store. UsageError for a malformed URI, a missing package or an unusable configuration."""
    scheme, path = split_uri(uri)
    kind = KINDS[scheme]
    variables = sorted((name, value) for name, value in os.environ.items() if name.startswith(kind.environment or ("\0",)))
    key = (os.getpid(), scheme, *variables)  # connections do not outlive a fork
    with _lock:
        if key not in _stores:
            try:
                _stores[key] = kind()
            except ImportError as error:
                raise UsageError(f'{scheme}:// needs the package {error.name}: pip install "textsmooth[{kind.extra}]"') from None
        store = _stores[key]
    return store, store.path(path)


@atexit.register
def close_stores() -> None:
    """Close all connections of this process."""
    with _lock:
        stores = [store for key, store in _stores.items() if key[0] == os.getpid()]
        _stores.clear()
    for store in stores:
        store.close()


def _after_fork() -> None:
    global _lock
    _lock = Lock()


os.register_at_fork(after_in_child=_after_fork)
