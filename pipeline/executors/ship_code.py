"""Pack the code of this checkout for workers that have another version or none: built into a wheel, as a release, and unpacked."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from textsmooth.schemas.errors import UsageError, first_line


def checkout() -> Path:
    """The folder of the checkout that is running. UsageError if textsmooth was installed from a wheel."""
    import textsmooth.pipeline

    root = Path(textsmooth.pipeline.__path__[0]).resolve().parent
    if not (root / "pyproject.toml").is_file():
        raise UsageError("--ship-code sends a checkout, and this textsmooth is an installed one: install the same version on the workers")
    return root


def package(folder: Path) -> Path:
    """Unpack a wheel of the package into `folder`/textsmooth, which Ray sends as a module: the workers need no installer.

    Ray would install a wheel itself with pip, with all dependencies.
    """
    root, source = checkout(), folder / "source"  # a copy: what an earlier build left in the checkout is not sent
    for name in ("schemas", "stages", "pipeline"):
        shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode:
        raise UsageError(f"--ship-code could not build a wheel of {checkout()}: {first_line(RuntimeError(built.stderr))}")
    (wheel,) = folder.glob("textsmooth-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    wheel.unlink()
    return folder / "textsmooth"
