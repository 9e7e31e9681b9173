"""Call the Hub: retry temporary errors, and turn all others into one line."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from textsmooth.schemas.errors import CorpusError, TeacherError, TextsmoothError, UsageError, first_line
from textsmooth.stages.storage.retry import HUB, RetryPolicy

T = TypeVar("T")
LONGEST_WAIT_S = 60.0  # that the Hub may ask for
RETRY_STATUSES = (408, 429, 500, 502, 503, 504)  # HTTP status


@dataclass(frozen=True, kw_only=True)
class Repo:
    """A repository as the user names it."""

    kind: str  # dataset, model
    name: str  # owner/name
    revision: str | None  # branch, tag, commit, refs/…; None: the default branch
    option: str = ""  # the option that names it: --corpus, --teacher, --task-teacher; hf:// if a URI does

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def error_type(self) -> type[TextsmoothError]:
        """The error for a repository that exists but is not accessible."""
        return CorpusError if self.kind == "dataset" else TeacherError

    @property
    def offline_choice(self) -> str:
        """What works without the Hub."""
        if self.kind == "dataset":
            return "--corpus demo or local files"
        return "a local folder" if self.option == "--task-teacher" else f"{self.option} demo or a local folder"


class Unreachable(Exception):
    """No answer from the Hub: offline mode, or no connection. A caller that has everything in the cache continues."""


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' log lines, and their progress bars unless stderr is a terminal."""
    from huggingface_hub import constants, utils

    logs = [utils.logging, *([sys.modules["datasets"].logging] if "datasets" in sys.modules else [])]
    before = [log.get_verbosity() for log in logs]
    bars = constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not utils.are_progress_bars_disabled() and not sys.stderr.isatty()
    for log in logs:
        log.set_verbosity(log.CRITICAL)
    if bars:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        for log, verbosity in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
        if bars:
            utils.enable_progress_bars()


Explain = Callable[[Repo, BaseException], Exception | None]


def ask(repo: Repo, call: Callable[[], T], *, explain: Explain | None = None, retry: tuple[int, ...] = (), policy: RetryPolicy = HUB) -> T:
    """Call the Hub, with retries.

    explain: turns an error into one with a message of one line, as `explain_read` does. retry: more HTTP status codes that
    are temporary. policy: of the retries.
    Raises Unreachable without a connection, UsageError for what is not there, CorpusError or TeacherError for what cannot be had.
    Errors that are not the Hub's come through.
    """
    retrying = policy.retrying(
        lambda error: _shortest_wait_s(error, retry) is not None, shortest_wait_s=lambda error: _shortest_wait_s(error, retry) or 0.0
    )
    try:
        return retrying(quiet()(call))
    except TextsmoothError:
        raise
    except Exception as error:
        explained = (explain or explain_read)(repo, error)
        if explained is None:
            raise
        raise explained from error


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def status_of(error: BaseException) -> int | None:
    """The HTTP status of an error, if it has one."""
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None)


def _shortest_wait_s(error: Exception, retry: tuple[int, ...]) -> float | None:
    """Seconds that the Hub asks to wait before the next attempt, 0 if it does not; None if the error is not temporary."""
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils import httpx

    if isinstance(error, TextsmoothError) or any(isinstance(e, LocalEntryNotFoundError) for e in chain(error)):
        return None  # huggingface_hub has tried five times
    for e in chain(error):
        if status_of(e) in (*RETRY_STATUSES, *retry):
            retry_after = str(e.response.headers.get("Retry-After", ""))  # type: ignore[attr-defined]
            seconds = float(retry_after) if retry_after.isdigit() else 0.0
            return None if seconds > LONGEST_WAIT_S else seconds
        if isinstance(e, httpx.ConnectError | httpx.ConnectTimeout):
            return None  # connection refused
        if isinstance(e, httpx.TimeoutException | httpx.NetworkError | httpx.RemoteProtocolError):
            return 0.0
        if type(e) is OSError and e.errno is None:
            return 0.0  # huggingface_hub's "Consistency check failed": a body that ended early
    return None


def invalid_name(repo: Repo) -> str:
    """The message for a name that no repository on the Hub can have."""
    return f"{repo.name} cannot be a name on the Hub: at most 96 of A-Z a-z 0-9 - _ . with no -- or .., no - or . at an end, no .git"


def explain_read(repo: Repo, error: BaseException) -> Exception | None:
    """An error with one line for an error of the Hub while a repository is read, or Unreachable; None for any other error."""
    from huggingface_hub.errors import RemoteEntryNotFoundError

    # A missing file is not the cause: `datasets` looks for files that need not exist.
    causes = (e for e in chain(error) if e is error or not isinstance(e, RemoteEntryNotFoundError))
    return next((explained for e in causes if (explained := _explain(repo, e)) is not None), None)


def _explain(repo: Repo, error: BaseException) -> Exception | None:
    from huggingface_hub import constants, errors, get_token
    from huggingface_hub.utils import httpx

    option = f"{repo.option or ('--corpus' if repo.kind == 'dataset' else '--teacher')}-revision"
    if repo.option == "hf://":
        option = "the URI, after its name and @,"
    page = f"{constants.ENDPOINT}/{'datasets/' if repo.kind == 'dataset' else ''}{repo.name}"
    token = "set HF_TOKEN or run `hf auth login`"
    status = status_of(error)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return Unreachable("HF_HUB_OFFLINE is set")
    if isinstance(error, errors.HFValidationError):
        return UsageError(invalid_name(repo))
    if isinstance(error, errors.GatedRepoError):
        login = "your account may not read it yet" if get_token() else f"then {token}"
        return repo.error_type(f"{repo} is gated: ask for access at {page}, {login}")
    if isinstance(error, errors.RevisionNotFoundError):
        return UsageError(f"{repo} has no revision {repo.revision!r}: give {option} an existing branch, tag, full commit or refs/pr/N")
    if status == 401 and get_token():
        return repo.error_type(
            f"the Hub refuses your token for {repo}: renew it (HF_TOKEN, or `hf auth login`), or unset it if {page} is public"
        )
    if status == 401 or isinstance(error, errors.RepositoryNotFoundError):
        owner = "" if "/" in repo.name else ", write it as owner/name"
        return UsageError(f"no {repo} on this machine or on the Hub, unless it is private: check the name{owner}, or {token}")
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return UsageError(f"{repo} has no file {_path(error)}: check the revision and the README of {page}")
    if status == 429:
        return repo.error_type(f"the Hub limits the requests of this machine (429) while reading {repo}: wait a few minutes, or {token}")
    if status is not None and status >= 500:
        return repo.error_type(f"the Hub failed with {status} while reading {repo}, several times: try again later")
    if status is not None and status >= 400:
        return repo.error_type(f"the Hub refused with {status} while reading {repo}: see {page}, or {token}")
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
        return Unreachable(f"no connection to {constants.ENDPOINT} ({first_line(error)})")
    if isinstance(error, httpx.TransportError) or (type(error) is OSError and error.errno is None):
        return repo.error_type(
            f"the connection to {constants.ENDPOINT} broke several times while reading {repo} ({type(error).__name__}): try again later"
        )
    return None


def _path(error: Any) -> str:
    """The path in the repository that was requested."""
    url = str(error.response.request.url)
    return url.rpartition("/resolve/")[2].partition("/")[2].partition("?")[0] or url
