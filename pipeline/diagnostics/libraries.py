"""Checks of Python and the libraries: required versions, and whether they import."""

import importlib
import importlib.metadata
import platform
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING

from textsmooth.pipeline.diagnostics.check_result import CheckResult, Group
from textsmooth.pipeline.executors.ship_code import checkout
from textsmooth.schemas.errors import UsageError, first_line
from textsmooth.schemas.version import VERSION

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

LIBRARIES = Group("Python and libraries")
ALSO = ("tokenizers", "fsspec")  # that transformers and datasets ask for, and decide bytes or storage
ASKING = ("textsmooth", "transformers", "datasets")
MODULES = {"pyyaml": "yaml", "scikit-learn": "sklearn"}  # that are not called as their distribution is
PURPOSES = {
    "gcs": "datasets at gs://",
    "plot": "pictures of compare",
    "ray": "units on clusters",
    "s3": "datasets at s3://",
    "sentencepiece": "tokenizers of spm.model",
    "tensorboard": "curves of training",
}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A distribution that somebody asks for."""

    name: str
    asked: "dict[str, SpecifierSet]"  # by whom of ASKING -> versions

    def refused(self, version: str) -> str:
        """Who asks for another version than this, and which; nothing if it suits all."""
        return " and ".join(f"{by} needs {spec}" for by, spec in self.asked.items() if not spec.contains(version, prereleases=True))

    def pip(self, options: str = "") -> str:
        """The command that installs a version that suits all."""
        spec = reduce(and_, self.asked.values())
        return f'pip install {options}"{self.name}{spec}"'


def python() -> Iterator[CheckResult]:
    """Python's version, textsmooth's, and whether what runs is what was installed."""
    from packaging.specifiers import SpecifierSet

    from textsmooth.pipeline.plan.versions import code_digest

    if _version("textsmooth") is None:
        advice = "pip install it: only then it is known which libraries it needs"
        yield LIBRARIES.problem("textsmooth", f"{VERSION} is not installed, only its files are found", advice)
        return
    needed = importlib.metadata.metadata("textsmooth")["Requires-Python"] or ""
    version = platform.python_version()
    if SpecifierSet(needed).contains(version, prereleases=True):
        yield LIBRARIES.ok("python", f"{version} ({needed})")
    else:
        yield LIBRARIES.problem("python", f"{version}, textsmooth needs {needed}", f"make an environment with python {needed}")
    version_and_code = f"{VERSION}, code {code_digest()}"
    if _stale():
        noted = "pip has noted what another state of its code needs, which is what follows"
        yield LIBRARIES.note("textsmooth", f"{version_and_code}; {noted}", "pip install it again: pip install -e . in a checkout")
    else:
        yield LIBRARIES.ok("textsmooth", version_and_code)


def _stale() -> bool:
    """Whether pip noted something else of textsmooth, when it was installed, than what is here now."""
    from packaging.requirements import Requirement

    try:
        project = tomllib.loads((checkout() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except UsageError:
        return _version("textsmooth") != VERSION
    required = {required for required in map(Requirement, _requires("textsmooth")) if not required.marker}
    extras = importlib.metadata.metadata("textsmooth").get_all("Provides-Extra") or ()
    return required != set(map(Requirement, project["dependencies"])) or {*extras} != {*project["optional-dependencies"]}


def libraries() -> Iterator[CheckResult]:
    """Those that textsmooth cannot do without: there, in a version that suits, and whole enough to import."""
    for wanted in _wanted():
        version, by = _version(wanted.name), next(iter(wanted.asked))
        if version is None:
            yield LIBRARIES.problem(wanted.name, f"not installed, {by} needs it", wanted.pip())
        elif refused := wanted.refused(version):
            yield LIBRARIES.problem(wanted.name, f"{version}, {refused}", wanted.pip())
        elif broken := _broken(MODULES.get(wanted.name.lower(), wanted.name)):
            yield LIBRARIES.problem(wanted.name, f"{version}, does not import: {broken}", wanted.pip("--force-reinstall "))
        else:
            yield LIBRARIES.ok(wanted.name, f"{version} ({wanted.asked[by] or 'any'})")


def extras() -> Iterator[CheckResult]:
    """Those that a part of textsmooth needs; they are not imported."""
    from packaging.requirements import Requirement

    about = importlib.metadata.metadata("textsmooth")
    requirements = [Requirement(text) for text in _requires("textsmooth")]
    for extra in about.get_all("Provides-Extra") or ():
        if extra == "dev":
            continue
        needed = [r for r in requirements if r.marker and r.marker.evaluate({"extra": extra}) and not r.marker.evaluate({"extra": ""})]
        versions = {r.name: _version(r.name) for r in needed}
        missing = [name for name, version in versions.items() if version is None]
        old = [f"{r.name} {v}, {r.specifier} is needed" for r in needed if (v := versions[r.name]) and not r.specifier.contains(v, True)]
        name, purpose, pip = f"[{extra}]", f"for {PURPOSES.get(extra, 'some uses')}", f'pip install "textsmooth[{extra}]"'
        if missing:
            yield LIBRARIES.note(name, f"{' and '.join(missing)} not installed, {purpose}", pip)
        elif old:
            yield LIBRARIES.problem(name, f"{' and '.join(old)}, {purpose}", pip)
        else:
            yield LIBRARIES.ok(name, f"{' and '.join(f'{name} {version}' for name, version in versions.items())}, {purpose}")


def _wanted() -> list[Wanted]:
    """What textsmooth asks for itself, and ALSO, with all who ask for it."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, Wanted] = {}
    for by in ASKING:
        for asked in map(Requirement, _requires(by)):
            if asked.marker is not None and not asked.marker.evaluate({"extra": ""}):
                continue
            name = canonicalize_name(asked.name)
            if by == "textsmooth" or name in ALSO:
                found.setdefault(name, Wanted(name=asked.name, asked={}))
            if name in found:
                found[name].asked[by] = asked.specifier
    return list(found.values())


def _requires(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []  # told where it is looked for itself


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _broken(module: str) -> str | None:
    """Why a module does not import; None if it does."""
    try:
        importlib.import_module(module)
    except Exception as error:
        return f"{type(error).__name__}: {first_line(error)}"
    return None
