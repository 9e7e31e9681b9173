"""A folder in an object store is whole, exclusive and never stale, whatever goes wrong; what cannot get better is told at once."""

import os
import pickle
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gcs_server import GCS
from s3_server import S3, Fault

from textsmooth.schemas.errors import StorageError, UsageError
from textsmooth.stages.dataset.open import open_folder
from textsmooth.stages.storage import registry
from textsmooth.stages.storage import s3 as s3_module
from textsmooth.stages.storage.folder import Folder
from textsmooth.stages.storage.retry import OBJECT_STORE
from textsmooth.stages.storage.store_folder import StoreFolder

ATTEMPTS = OBJECT_STORE.attempts
NAMES = ["plan.json", "train/00000-0.arrow", "receipts/train-00000.json", "odd/ü é+%20&=.txt", "tokenizer/deep/er/x"]


@pytest.fixture(params=["s3", "gs", "memory", "local"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    if request.param == "s3":
        yield open_folder(f"{request.getfixturevalue('bucket')}/some/where")
    elif request.param == "gs":
        pytest.importorskip("gcsfs", reason="gs:// needs the package gcsfs")
        with GCS() as server:
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
            server.failures = 1
            yield open_folder("gs://data/some/where")
            registry.close_stores()
    elif request.param == "memory":
        yield open_folder(f"memory://{tmp_path.name}/some/where")
    else:
        yield open_folder(tmp_path / "some/where")


def test_a_folder_keeps_what_is_put(folder: Folder) -> None:
    assert not folder.exists() and folder.empty() and folder.files() == {} and folder.size("plan.json") is None
    contents = {name: f"content of {name}".encode() * 3 for name in NAMES}
    for name, data in contents.items():
        folder.put(name, memoryview(data))
    sizes = {name: len(data) for name, data in contents.items()}
    assert folder.exists() and not folder.empty() and folder.files() == sizes
    assert folder.files("tokenizer") == {NAMES[-1]: sizes[NAMES[-1]]} and folder.files("token") == {}
    assert folder.read_all([*NAMES, "nothing"]) == contents and folder.read_all([]) == {}
    assert {name: folder.read(name) for name in NAMES} == contents and {name: folder.size(name) for name in NAMES} == sizes
    folder.put("plan.json", b"other")
    assert folder.read("plan.json") == b"other"
    with pytest.raises(FileNotFoundError):
        folder.read("nothing")


def test_a_folder_forgets_what_is_removed(folder: Folder) -> None:
    for name in NAMES:
        folder.put(name, b"x")
    folder.put("train.json", b"begins like a folder")
    folder.remove(("plan.json", "train", "nothing"))
    assert set(folder.files()) == {*NAMES[2:], "train.json"}
    many = [f"many/{i:03}.json" for i in range(30)]  # more than a page of the stand-in's listings
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: folder.put(name, b"x"), many))
    assert set(folder.files("many")) == set(many)
    folder.remove([*many[:25], "odd", "tokenizer"])
    assert set(folder.files()) == {"train.json", NAMES[2], *many[25:]}
    folder.prune(("many", "train"))
    assert set(folder.files("many")) == set(many[25:])


def test_only_the_first_creates(folder: Folder) -> None:
    assert folder.put_exclusive("plan.json", b"mine") is True
    assert folder.put_exclusive("plan.json", b"other") is False
    assert folder.read("plan.json") == b"mine"


def test_of_many_at_once_exactly_one_is_first(bucket: str) -> None:
    folder = open_folder(bucket)
    for number in range(5):
        with ThreadPoolExecutor(8) as threads:
            won = list(threads.map(lambda i, n=number: folder.put_exclusive(f"{n}", b"%d" % i), range(8)))  # type: ignore[misc]
        assert won.count(True) == 1
        assert folder.read(f"{number}") == b"%d" % won.index(True)


def test_a_file_is_one_put_and_a_listing_asks_for_no_file(bucket: str, s3: S3) -> None:
    folder = open_folder(f"{bucket}/x")
    for i in range(25):
        folder.put(f"{i:02}", b"x" * 1000)
    assert [line.split()[0] for line in s3.log()] == ["PUT"] * 25
    s3.clear()
    assert len(folder.files()) == 25
    assert len(s3.log()) == 2 and all("list-type=2" in line for line in s3.log())
    s3.clear()
    assert len(folder.read_all([f"{i:02}" for i in range(25)])) == 25
    assert [line.split()[0] for line in s3.log()] == ["GET"] * 25
    s3.clear()
    folder.remove([f"{i:02}" for i in range(25)])
    assert [line.split()[0] for line in s3.log()] == ["GET", "GET", "POST"]


def test_a_listing_is_never_stale(bucket: str, s3: S3) -> None:
    folder = open_folder(f"{bucket}/x")
    for number in range(3):
        assert len(folder.files()) == number
        s3.put(f"{bucket}/x/{number}", b"from elsewhere")
        assert folder.size(f"{number}") == 14


FAULTS = {
    "500": Fault("^METHOD ", status=500, times=3),
    "503": Fault("^METHOD ", status=503, code="SlowDown", times=3),
    "a proxy": Fault("^METHOD ", status=502, times=3),
    "dropped": Fault("^METHOD ", drop=True, times=3),
    "dropped, done": Fault("^METHOD ", drop=True, late=True, times=3),
    "500, done": Fault("^METHOD ", status=500, late=True, times=3),
    "timeout": Fault("^METHOD ", delay_s=0.2, times=2),
    "timeout, done": Fault("^METHOD ", delay_s=0.2, late=True, status=500, times=2),
    "half a body": Fault("^METHOD ", body_bytes=100, times=3),
    "slow body": Fault("^METHOD ", block_s=0.02, times=2),
}
CALLS: dict[str, tuple[str, Callable[[Folder], object], object]] = {
    "put": ("PUT", lambda f: (f.put("new", b"n" * 200), f.read("new"))[1], b"n" * 200),
    "put_exclusive": ("PUT", lambda f: (f.put_exclusive("new", b"n" * 200), f.read("new")), (True, b"n" * 200)),
    "read": ("GET", lambda f: f.read("old"), b"o" * 40_000),
    "read_all": ("GET", lambda f: f.read_all(["old", "none", "too"]), {"old": b"o" * 40_000, "too": b"t"}),
    "files": ("GET", lambda f: f.files(), {"old": 40_000, "too": 1}),
    "size": ("HEAD", lambda f: f.size("old"), 40_000),
    "remove": ("POST", lambda f: (f.remove(["old"]), f.files())[1], {"too": 1}),
}


# Every fault of one call that reads and one that writes, and one fault of every call; the other pairs are slow.
PAIRS = [
    pytest.param(fault, call, marks=() if fault == "500" or call in ("put_exclusive", "read") else pytest.mark.slow)
    for fault in FAULTS
    for call in CALLS
]


@pytest.mark.parametrize(("fault", "call"), PAIRS)
def test_what_passes_is_tried_again(
    call: str, fault: str, bucket: str, s3: S3, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if "timeout" in fault:
        monkeypatch.setattr(s3_module, "SILENCE_S", 0.1)
        registry.close_stores()  # it holds for new connections
        request.addfinalizer(registry.close_stores)
    method, ask, expected = CALLS[call]
    folder = open_folder(f"{bucket}/x")
    folder.put("old", b"o" * 40_000)
    folder.put("too", b"t")
    s3.faults(Fault(**{**vars(FAULTS[fault]), "pattern": f"^{method} "}))
    assert ask(folder) == expected


def test_when_the_answer_was_lost_another_one_s_file_is_not_taken_for_ours(bucket: str, s3: S3) -> None:
    folder = open_folder(f"{bucket}/x")
    s3.put(f"{bucket}/x/plan.json", b"theirs")
    s3.faults(Fault("^PUT ", drop=True, times=2))
    assert folder.put_exclusive("plan.json", b"mine") is False
    assert folder.read("plan.json") == b"theirs"


@pytest.mark.parametrize(("call", "what"), [("put", "write"), ("read", "read"), ("files", "list"), ("size", "read"), ("read_all", "read")])
def test_what_does_not_pass_is_told_after_a_while(call: str, what: str, bucket: str, s3: S3) -> None:
    s3.faults(Fault(".", status=503, code="SlowDown"))
    with pytest.raises(StorageError, match=rf"cannot {what} {bucket}/x\S*: .*503 .*, {ATTEMPTS} times in \d+ s; .*same command") as told:
        CALLS[call][1](open_folder(f"{bucket}/x"))
    assert "\n" not in str(told.value)
    assert {s3.log().count(line) for line in s3.log()} == {ATTEMPTS}


def test_tries_are_counted_only_while_nothing_comes(bucket: str, s3: S3) -> None:
    folder = open_folder(f"{bucket}/x")
    names = [f"{i:03}" for i in range(50)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: folder.put(name, name.encode()), names))
    s3.faults(Fault("^GET ", status=503, code="SlowDown", share=0.5))
    assert folder.read_all(names) == {name: name.encode() for name in names}


@pytest.mark.parametrize(
    ("status", "code", "kind", "told"),
    [
        (403, "AccessDenied", StorageError, r"access denied .*s3:PutObject"),
        (403, "InvalidAccessKeyId", StorageError, "does not know these credentials .*AWS_PROFILE"),
        (403, "SignatureDoesNotMatch", StorageError, "does not know these credentials .*AWS_PROFILE"),
        (400, "ExpiredToken", StorageError, "have expired .*renew them"),
        (403, "RequestTimeTooSkewed", StorageError, "clock"),
        (400, "AuthorizationHeaderMalformed", UsageError, "another region: set AWS_DEFAULT_REGION"),
        (501, "NotImplemented", StorageError, "cannot create files exclusively"),
        (404, "NoSuchBucket", UsageError, "there is no bucket"),
        (400, "EntityTooLarge", StorageError, "HTTP 400 EntityTooLarge"),
    ],
)
def test_what_cannot_get_better_is_asked_once(status: int, code: str, kind: type[Exception], told: str, bucket: str, s3: S3) -> None:
    s3.faults(Fault("^PUT ", status=status, code=code))
    with pytest.raises(kind, match=rf"cannot write {bucket}/x/plan.json: .*{told}"):
        open_folder(f"{bucket}/x").put_exclusive("plan.json", b"x")
    assert len(s3.log()) == 1


def test_files_that_were_not_removed_are_told(bucket: str, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder(f"{bucket}/x")
    folder.put("a", b"x")
    answers = [{"Errors": [{"Code": "InternalError", "Key": "x/a", "Message": "try again"}]}, {}]
    real = open_folder(bucket)._store.fs  # type: ignore[attr-defined]
    monkeypatch.setattr(type(real), "call_s3", lambda self, method, **named: answers.pop(0) if method == "delete_objects" else {})
    folder.remove(["a"])
    assert answers == []
    answers.append({"Errors": [{"Code": "AccessDenied", "Key": "x/a", "Message": "Access Denied"}]})
    with pytest.raises(StorageError, match=r"cannot remove files below .*access denied \(Access Denied: x/a\)"):
        folder.remove(["a"])


def test_who_is_asking_and_whom_comes_from_the_environment(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder(f"{bucket}/x")
    assert not folder.exists()
    with monkeypatch.context() as changed:
        changed.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        with pytest.raises(StorageError, match=rf"Could not connect to the endpoint .*, {ATTEMPTS} times .*check AWS_ENDPOINT_URL"):
            folder.exists()
        changed.setenv("AWS_ENDPOINT_URL", "nonsense")
        with pytest.raises(UsageError, match=r"Invalid endpoint: nonsense; set AWS_ENDPOINT_URL to http"):
            folder.exists()
    with monkeypatch.context() as changed:
        changed.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(UsageError, match=r"nobody.*could not be found; name another with AWS_PROFILE"):
            folder.exists()
    with monkeypatch.context() as changed:
        changed.delenv("AWS_ACCESS_KEY_ID")
        changed.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(StorageError, match=r"no credentials \(Unable to locate credentials\); set AWS_PROFILE"):
            folder.exists()
    assert not folder.exists()
    with pytest.raises(UsageError, match="there is no bucket 'nobody-has-it'"):
        open_folder("s3://nobody-has-it/x").exists()


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("s3://", "names no bucket"),
        ("s3:///x", "names no bucket"),
        ("s3://bucket//x", "no plain path"),
        ("s3://bucket/../x", "no plain path"),
        ("s3://bucket/*", "which are wildcards"),
        ("ftp://host/x", "named by s3://, gs://, not ftp://"),
    ],
)
def test_a_uri_that_names_no_folder_is_told(uri: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        open_folder(uri)


def test_credentials_in_a_uri_are_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="credentials do not belong in a URI") as told:
        open_folder("s3://KEY:SECRET@bucket/x")
    assert "KEY" not in str(told.value) and "SECRET" not in str(told.value)


@pytest.mark.parametrize(("uri", "package", "extra"), [("s3://bucket/x", "s3fs", "s3"), ("gs://bucket/x", "gcsfs", "gcs")])
def test_a_package_that_is_missing_is_told_with_its_extra(uri: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.close_stores()
    for name in [name for name in sys.modules if name.partition(".")[0] == package] + [package, f"{package}.core"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf'needs the package {package}\S*: pip install "textsmooth\[{extra}\]"'):
        open_folder(uri)


def test_another_process_is_sent_only_the_uri(bucket: str) -> None:
    folder = open_folder(f"{bucket}/x")
    folder.put("a", b"from here")
    sent = pickle.dumps(folder)
    assert len(sent) < 200
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            again: StoreFolder = pickle.loads(sent)  # noqa: S301
            again.put("b", b"from the child")
            os.write(writer, folder.read("a") + b", " + again.read("b"))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100) == b"from here, from the child"
    os.close(reader)
    os.close(writer)
    assert folder.read("b") == b"from the child"
