"""Layout: packages, files that ship, imports that stay light, and what no published file may contain. Who imports whom: lint-imports."""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from helpers_gen import REPOSITORY

from textsmooth.pipeline.generation.run import generate
from textsmooth.schemas.config import GenerateOptions
from textsmooth.schemas.version import VERSION

LAYERS = ("schemas", "stages", "pipeline")
HEAVY = ("torch", "transformers", "datasets", "ray", "pyarrow", "numpy", "sklearn", "pandas", "rich", "yaml")
LINES = 400
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def tracked() -> list[Path]:
    """Files that git knows, or would take."""
    asked = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(asked, cwd=REPOSITORY, capture_output=True, check=True, text=True).stdout
    return [p for name in sorted(set(listed.split("\0")) - {""}) if (p := REPOSITORY / name).is_file()]


def sources(*layers: str) -> Iterator[Path]:
    for layer in layers:
        yield from sorted((REPOSITORY / layer).rglob("*.py"))


def python(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, cwd="/")


def test_the_package_list_is_the_folders_on_disk() -> None:
    folders = {p.parent.relative_to(REPOSITORY) for layer in LAYERS for p in (REPOSITORY / layer).rglob("__init__.py")}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == {f"textsmooth.{'.'.join(folder.parts)}" for folder in folders}
    assert PYPROJECT["tool"]["setuptools"]["package-dir"] == {f"textsmooth.{layer}": layer for layer in LAYERS}


def test_every_folder_with_code_is_a_package() -> None:
    folders = {p.parent for p in sources(*LAYERS)}
    assert [f for f in folders if not (f / "__init__.py").is_file()] == []


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_is_typed_and_ships_py_typed(layer: str) -> None:
    assert (REPOSITORY / layer / "py.typed").is_file()
    assert "py.typed" in PYPROJECT["tool"]["setuptools"]["package-data"][f"textsmooth.{layer}"]


def test_every_file_that_is_no_code_ships() -> None:
    told = PYPROJECT["tool"]["setuptools"]["package-data"]
    shipped = {p for name, globs in told.items() for glob in globs for p in REPOSITORY.joinpath(*name.split(".")[1:]).glob(glob)}
    packages = {init.parent for layer in LAYERS for init in (REPOSITORY / layer).rglob("__init__.py")}
    read_in_the_repository = {package / "README.md" for package in packages}
    others = {p for p in tracked() if p.relative_to(REPOSITORY).parts[0] in LAYERS and p.suffix != ".py"} - read_in_the_repository
    assert others == {p for p in shipped if p.is_file()}


def test_textsmooth_is_a_namespace() -> None:
    assert not (REPOSITORY / "textsmooth").exists()


def test_stages_and_schemas_import_where_ray_click_and_datasets_are_missing() -> None:
    modules = [f"textsmooth.{'.'.join(p.relative_to(REPOSITORY).with_suffix('').parts)}" for p in sources("stages", "schemas")]
    block = "import sys, importlib\nfor name in ('ray', 'click', 'datasets', 'rich'): sys.modules[name] = None\n"
    ran = python(f"{block}for name in {modules!r}: importlib.import_module(name)\nprint('fine')")
    assert ran.stdout == "fine\n", ran.stderr
    assert python(f"{block}import click").returncode != 0


def imported(args: list[str], names: tuple[str, ...]) -> "tuple[subprocess.CompletedProcess[str], str]":
    """Run `textsmooth ARGS` in a process of its own; and which of these modules it imported, as the last line of its errors."""
    code = (
        f"import sys; sys.argv[1:] = {args!r}\n"
        "from textsmooth.pipeline.cli.app import main\n"
        "try: main()\n"
        f"finally: print([name for name in {names!r} if name in sys.modules], file=sys.stderr)\n"
    )
    ran = python(code)
    return ran, ran.stderr.splitlines()[-1]


@pytest.mark.parametrize("args", [["--help"], ["gen", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    ran, modules = imported(args, HEAVY)
    assert (ran.returncode, modules) == (0, "[]")
    assert "Usage" in ran.stdout or ran.stdout == f"textsmooth {VERSION}\n"


@pytest.mark.parametrize("command", ["stats", "inspect", "train"])
def test_looking_at_a_dataset_and_wrong_names_need_no_torch(command: str, teacher: Path, reviews: Path, tmp_path: Path) -> None:
    """torch takes seconds to import, pandas half of one."""
    more = ["--student", "none", "--out", "none"] if command == "train" else []
    ran, modules = imported([command, str(tmp_path / "none"), *more], ("torch", "pandas"))
    assert (ran.returncode, modules) == (2, "[]")
    generate(GenerateOptions(corpus=str(reviews), teacher=str(teacher), topk=4, out=str(tmp_path / "out")))
    ran, modules = imported([command, str(tmp_path / "out"), *more], ("torch", "pandas"))
    assert (ran.returncode, modules) == (2 if more else 0, "[]"), ran.stderr


def test_every_command_is_there_with_help() -> None:
    import click
    from click.testing import CliRunner

    from textsmooth.pipeline.cli.app import COMMANDS, textsmooth

    for name in COMMANDS:
        ran = CliRunner().invoke(textsmooth, [name, "--help"])
        assert ran.exit_code == 0, ran.output
        command = textsmooth.get_command(click.Context(textsmooth), name)
        assert command is not None and command.help
        for option in command.params:
            assert isinstance(option, click.Argument) or option.help, f"{name} {option.name} has no help"  # type: ignore[attr-defined]


def test_no_file_is_two_files() -> None:
    too_long = {str(p): lines for p in sources(*LAYERS) if (lines := len(p.read_text(encoding="utf-8").splitlines())) > LINES}
    assert too_long == {}


FORBIDDEN = ["/wor" + "k/", "/ro" + "ot/", "pypi.or" + "g/simple", "files.python" + "hosted", "arti" + "factory", "download.py" + "torch"]


def test_no_file_names_a_place_of_some_machine_or_a_package_host() -> None:
    found = {}
    for path in tracked():
        text = path.read_bytes().decode("utf-8", "ignore")
        names = [word for word in FORBIDDEN if word in text]
        if names:
            found[path.relative_to(REPOSITORY).as_posix()] = names
    assert found == {}


def cluster() -> dict[str, object]:
    value = yaml.safe_load((REPOSITORY / "ray_cluster.yaml").read_text(encoding="utf-8"))
    assert isinstance(value, dict)
    return value


VALIDATE = """
import json, sys, warnings
warnings.simplefilter("ignore")
from ray.autoscaler._private.util import prepare_config, validate_config
for config in json.load(sys.stdin):
    try:
        validate_config(prepare_config(config))
        print("valid")
    except Exception as error:
        print(type(error).__name__)
"""


def test_the_cluster_file_is_valid_for_the_ray_that_is_installed() -> None:
    import json

    pytest.importorskip("ray", reason="the extra `ray` is not installed", exc_type=ImportError)
    good = cluster()
    bad = [{**good, "made_up_key": 1}, {**good, "max_workers": "eight"}, {k: v for k, v in good.items() if k != "provider"}]
    ran = subprocess.run([sys.executable, "-c", VALIDATE], input=json.dumps([good, *bad]), capture_output=True, text=True)
    verdicts = ran.stdout.split()
    assert verdicts[0] == "valid", ran.stderr
    assert len(verdicts) == 1 + len(bad) and "valid" not in verdicts[1:]


def test_the_cluster_file_names_its_own_node_types() -> None:
    value = cluster()
    assert value["head_node_type"] in value["available_node_types"]  # type: ignore[operator]
