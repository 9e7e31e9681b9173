"""Open a smoothed dataset by path, URI or Hub name."""

import logging
import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from textsmooth.schemas.config import check_place
from textsmooth.schemas.errors import DatasetError, UsageError
from textsmooth.schemas.manifest import MANIFEST, Manifest
from textsmooth.stages.hub.names import DATASET_NAME, OWNED_NAME
from textsmooth.stages.storage.folder import Folder, is_uri, read_json
from textsmooth.stages.storage.local import LocalFolder, closest, refuse_slip
from textsmooth.stages.storage.registry import KINDS, SCHEMES


def hub_uri(place: str | Path) -> str | None:
    """The URI of a dataset on the Hub that is called by its name, owner/name, or by the address of its page there.

    None for another place, and for a name that lies here; a Path is never such a name. UsageError for one that is nearly the name of a
    folder here, and for another address.
    """
    if isinstance(place, str) and place.startswith(("https://", "http://")):
        return _of_page(place)
    if not isinstance(place, str) or DATASET_NAME.fullmatch(place) is None or os.path.lexists(place):
        return None
    uri = f"hf://datasets/{place}"
    refuse_slip(place, uri)
    return uri


def _of_page(address: str) -> str:
    """The URI of the dataset that a page on the Hub is of, at https://huggingface.co or HF_ENDPOINT."""
    from huggingface_hub import constants

    refused = UsageError(
        f"{address} is not the page of a dataset on the Hub: give {constants.ENDPOINT}/datasets/owner/name, with /tree/REVISION where "
        "needed"
    )
    try:
        url = urlsplit(address)
    except ValueError:  # of http://[x
        raise refused from None
    for hub in map(urlsplit, ("https://huggingface.co", constants.ENDPOINT)):
        path = url.path.removeprefix(hub.path)
        found = PAGE.fullmatch(path.strip("/"))
        if url.netloc == hub.netloc and found is not None:
            revision, folder = found["revision"], unquote(found["folder"] or "")
            at = "" if revision is None or (revision == "main" and not folder) else f"@{revision}"
            return f"hf://datasets/{found['name']}{at}{folder}"
    raise refused


def dataset_name(place: str | Path) -> str:
    """What a dataset is called where it lies: as its repository on the Hub, else by the last part of its path."""
    where = hub_uri(place) or str(place)
    if not is_uri(where):
        return Path(where).resolve().name
    return PurePosixPath(where.partition("@")[0] if where.startswith("hf://") else where).name


def open_folder(place: str | Path, *, reading: bool = False) -> Folder:
    """The folder at a path, or at a URI of an object store; if it is only to be read, also on the Hub.

    There it is called owner/name, hf://datasets/owner/name[@revision][/folder], or as its page. UsageError for a URI of another kind, or
    a name that is neither here nor there.
    """
    check_place("dataset", str(place))
    if place == "":
        raise UsageError("a place is named by nothing: '' (a shell variable that is not set?)")
    scheme = str(place).partition("://")[0]
    uri = hub_uri(place) if reading else None
    if uri is not None or (scheme == "hf" and reading):
        return _on_hub(str(place), uri or str(place))
    if not is_uri(place):
        return LocalFolder(Path(place).expanduser())
    if scheme not in KINDS:
        raise UsageError(f"{place}: an object store is named by {', '.join(SCHEMES)}, not {scheme}://")
    from textsmooth.stages.storage.store_folder import StoreFolder

    return StoreFolder(str(place))


def _on_hub(name: str, uri: str) -> Folder:
    from textsmooth.stages.hub.folder import HubFolder

    try:
        folder = HubFolder(uri)
    except (DatasetError, UsageError) as error:
        if is_uri(name):
            raise
        raise type(error)(f"no folder {name} here; as a name on the Hub: {error}") from None
    if folder.exists():
        log.info("reading %(name)s (revision %(revision).7s) from %(from)s", folder.found)
    return folder


def read_manifest(place: Folder | Path | str) -> Manifest:
    """The manifest of a smoothed dataset. UsageError if there is no such folder, DatasetError unless it is one, finished and unaltered."""
    folder = place if isinstance(place, Folder) else open_folder(place, reading=True)
    try:
        return Manifest.from_json(read_json(folder, MANIFEST), folder.at(MANIFEST))
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        raise UsageError(f"no smoothed dataset at {folder}: that is a file; give its folder") from None
    if isinstance(folder, LocalFolder) and not folder.path.is_dir():
        named = not folder.path.is_absolute() and len(folder.path.parts) > 1
        hub = "; on the Hub one is owner/name, hf://datasets/owner/name@revision, or its page" if named else ""
        nothing = f"there is no such folder{closest(str(folder))}"
        raise UsageError(f"no smoothed dataset at {folder}: {nothing}; make one with textsmooth-gen{hub}")
    near = folder.near()
    if near:
        names = f"{', '.join(near[:NAMED])}{f' and {len(near) - NAMED:,} more' if len(near) > NAMED else ''}"
        raise UsageError(f"no smoothed dataset at {folder}: name {'one of ' if len(near) > 1 else ''}{names}")
    made = "textsmooth push" if folder.read_only else "textsmooth-gen, push or pull"
    raise DatasetError(f"{folder} has no {MANIFEST}: not a smoothed dataset, or not finished; run its {made} again")


NAMED = 3  # datasets that an error names

PAGE = re.compile(rf"datasets/(?P<name>{OWNED_NAME})(?:/tree/(?P<revision>refs/[a-z]+/[^/]+|[^/]+)(?P<folder>(?:/[^/]+)*))?")

log = logging.getLogger(__name__)
