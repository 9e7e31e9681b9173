"""Checks of the Hub, the caches on this machine, and a place for datasets."""

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from textsmooth.pipeline.diagnostics.check_result import CheckResult, Group
from textsmooth.pipeline.formatting import size
from textsmooth.schemas.errors import StorageError, first_line
from textsmooth.schemas.manifest import MANIFEST, PLAN
from textsmooth.stages.dataset.open import open_folder
from textsmooth.stages.storage import atomic, cache
from textsmooth.stages.storage.folder import Folder
from textsmooth.stages.storage.local import LocalFolder
from textsmooth.stages.storage.retry import DOCTOR_ATTEMPTS

HUB, CACHE, OUT = Group("Hub"), Group("Cache of files from object stores"), Group("Place for datasets")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
ANSWER_S = 3.0  # time limit for the answer of the Hub
LITTLE = 2_000_000_000  # bytes free
STORE_S = 10.0  # time limit for the first answer of a place for datasets

T = TypeVar("T")


def hub() -> Iterator[CheckResult]:
    """Whether the Hub answers, to whom, and where what comes from there is kept."""
    from huggingface_hub import constants

    variables = [name for name in OFFLINE if os.environ.get(name)]
    if constants.HF_HUB_OFFLINE:
        set_here = " and ".join(variables) or "HF_HUB_OFFLINE"
        what = f"{constants.ENDPOINT} is not asked, {set_here} is set: only what is in the cache can be read"
        yield HUB.note("endpoint", what, f"unset {set_here} to read from the Hub")
        yield _token(None)
    else:
        yield from _endpoint(constants.ENDPOINT)
    place = Path(constants.HF_HUB_CACHE).expanduser().absolute()
    yield from _kept(HUB, place, "HF_HOME", needed=not constants.HF_HUB_OFFLINE)


def _endpoint(url: str) -> Iterator[CheckResult]:
    from huggingface_hub.utils import httpx

    instead = "HF_HUB_OFFLINE=1 works with what is in the cache"
    start = time.perf_counter()
    try:
        answer = _within(ANSWER_S, lambda: _whoami(url))
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        late = isinstance(error, TimeoutError | httpx.TimeoutException)
        why = f"no answer in {ANSWER_S:g} s" if late else first_line(error)
        yield HUB.problem("endpoint", f"{url} cannot be reached ({why})", f"check HF_ENDPOINT, the network and its proxy; {instead}")
        yield _token(None)
        return
    seconds = time.perf_counter() - start
    if answer.status_code >= 500:
        yield HUB.problem("endpoint", f"{url} fails with {answer.status_code}", f"try again later; {instead}")
    else:
        yield HUB.ok("endpoint", f"{url} answers in {seconds:.2f} s")
    yield _token(answer)


def _whoami(url: str) -> Any:
    """The Hub's answer to who is asking, whatever it is."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers

    return get_session().get(f"{url}/api/whoami-v2", headers=build_hf_headers(), timeout=ANSWER_S)


def _token(answer: Any) -> CheckResult:
    """Whether there is a token, and whose it is by the Hub's answer; never the token itself."""
    from huggingface_hub import get_token

    if not get_token():
        return HUB.note(
            "token", "none, so only public repositories can be read", "`hf auth login`, or set HF_TOKEN, to read others and to push"
        )
    where = next((f"in {name}" for name in TOKENS if os.environ.get(name)), "of `hf auth login`")
    if answer is not None and answer.status_code == 401:
        return HUB.problem(
            "token", f"there is one ({where}), and the Hub refuses it", "renew it; without one, public repositories can be read"
        )
    whose = ""
    with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):  # no answer, or a mirror's
        whose = f", it is {answer.json()['name']}'s"
    return HUB.ok("token", f"there is one ({where}){whose}")


def copies() -> Iterator[CheckResult]:
    """The cache of files from object stores: where, how full, and whether it can get as full as it may."""
    place, most = cache.folder().absolute(), cache.limit()
    taken = sum(LocalFolder(place / "files").files().values())
    free = _room(place)[1]
    yield from _kept(CACHE, place, cache.FOLDER_VARIABLE, needed=cache.FOLDER_VARIABLE in os.environ)
    usage = f"{size(taken)} taken of at most {size(most)}"
    if most - taken > free:
        fits = f"set {cache.LIMIT_VARIABLE}={(taken + free) * 0.9 / 1e9:.0f}, or {cache.FOLDER_VARIABLE} to a folder with more room"
        yield CACHE.note("limit", f"{usage}, only {size(free)} free", fits)
    else:
        yield CACHE.ok("limit", usage)


def _kept(group: Group, place: Path, variable: str, *, needed: bool) -> Iterator[CheckResult]:
    """Whether a folder can keep what comes; if it need not, that it cannot is a note."""
    writable, free = _room(place)
    where = f"{place}{'' if place.exists() else ', not there yet'}"
    if not writable:
        say = group.problem if needed else group.note
        yield say("cache", f"{where}, cannot be written", f"set {variable} to a folder you may write to")
    elif free < LITTLE:
        yield group.note("cache", f"{where}, only {size(free)} free", f"make room, or set {variable} to a folder with more")
    else:
        yield group.ok("cache", f"{where}, writable, {size(free)} free")


def _room(place: Path) -> tuple[bool, int]:
    """Whether a folder can be written, or made, and the bytes free there; found out without writing."""
    nearest = next(path for path in (place, *place.parents) if path.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK), shutil.disk_usage(nearest).free


def out(place: str) -> Iterator[CheckResult]:
    """Whether a dataset can be written to a place: a file is created, a second one refused, and both are gone at the end."""
    folder = open_folder(place)
    local = folder.path.absolute() if isinstance(folder, LocalFolder) else None
    made = [path for path in (local, *local.parents) if not path.exists()] if local is not None else []
    try:
        with _fewer_attempts(place, local):
            yield from _tried(folder, taken=_taken(folder))
    finally:
        for path in made:
            atomic.remove_empty(path)


def _taken(folder: Folder) -> str | None:
    """What is there already that textsmooth-gen will not share a folder with."""
    try:
        exists = _within(STORE_S, folder.exists)
    except TimeoutError:
        raise StorageError(f"{folder} has not answered in {STORE_S:g} s; check the network, and the endpoint if you have set one") from None
    if not exists or (isinstance(folder, LocalFolder) and folder.empty(but_temp=True)):
        return None
    if folder.size(MANIFEST) is not None:
        return "holds a finished dataset"
    return "holds files that are no dataset of textsmooth" if folder.size(PLAN) is None else None


def _tried(folder: Folder, *, taken: str | None) -> Iterator[CheckResult]:
    name = f"{atomic.TEMP_PREFIX}doctor-{secrets.token_hex(8)}"
    first, second = secrets.token_bytes(32), secrets.token_bytes(32)
    created = folder.put_exclusive(name, first)
    try:
        again, same = folder.put_exclusive(name, second), folder.read(name) == first
    finally:
        folder.remove([name])
    free = shutil.disk_usage(folder.path).free if isinstance(folder, LocalFolder) else None
    if not created or again or not same:
        text = "takes a second file of the same name: two runs there would spoil each other" if again else "gives back other bytes"
        yield OUT.problem("--out", f"{folder} {text}", "give another --out: what is needed is storage that creates files exclusively")
    elif free is not None and free < LITTLE:
        yield OUT.note("--out", f"{folder} can be written, only {size(free)} are free there", "make room, or give another --out")
    else:
        yield OUT.ok("--out", f"{folder} can be written{'' if free is None else f', {size(free)} are free there'}")
    if taken is not None:
        yield OUT.note("--out", f"{folder} {taken}", "give another --out: textsmooth-gen makes no new dataset in this one")


@contextlib.contextmanager
def _fewer_attempts(place: str, local: Path | None) -> Iterator[None]:
    """An object store that does not answer gets fewer attempts than in a run."""
    if local is not None:
        yield
        return
    from textsmooth.stages.storage.registry import open_store

    store, _ = open_store(place)
    before, store.retries = store.retries, replace(store.retries, attempts=DOCTOR_ATTEMPTS)
    try:
        yield
    finally:
        store.retries = before


def _within(seconds: float, call: Callable[[], T]) -> T:
    """The result of a call; TimeoutError if it takes longer, as the lookup of an unknown host name may."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    Thread(target=run, name="hub", daemon=True).start()
    return answer.result(seconds)
