"""`--config job.yaml`: the options of one or many runs. A mistake is one line that names the file and the line.

Values are taken as they are written and go through the command's own options, as if they had been typed: a file and a command line that
say the same do the same.
"""

import difflib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import yaml

from textsmooth.schemas.errors import UsageError, first_line

CORPORA = "corpora"
SCALARS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp")}
NULL = "tag:yaml.org,2002:null"
NOT_IN_A_FILE = ("config", "help", "version")
VARIABLE = re.compile(r"\$(?:(?P<escaped>\$\{)|\{(?:(?P<name>[A-Za-z_]\w*)(?P<default>:-[^}]*)?\}|(?P<wrong>.*)))", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One run of a job: what its parameters are, and where the file says so."""

    where: str  # job.yaml:12, of the corpus
    params: dict[str, Any]  # of the command, as its function takes them
    lines: dict[str, str] = field(default_factory=dict)  # parameter -> job.yaml:14, of those that the file gives


@dataclass(frozen=True)
class _Given:
    """What the file says about one parameter."""

    where: str
    value: Any  # converted; None: as if it were not given


def read_job(path: str, ctx: click.Context) -> list[Entry]:
    """The runs that a job file asks for, in order; options on the command line win. UsageError for the first mistake in it."""
    return _Job(path, ctx).entries()


def check(entries: list[Entry], build: Callable[[dict[str, Any]], Any], defaults: dict[str, Any], out: Callable[[Any], str]) -> list[Any]:
    """What `build` makes of each entry's parameters. UsageError, naming file and line, for a value it refuses, or one `out` for two.

    defaults: of parameters, to find out which of an entry's values is the one refused.
    """
    built, seen = [], dict[str, str]()
    for entry in entries:
        try:
            made = build(entry.params)
        except UsageError as error:
            raise UsageError(f"{_at_fault(entry, build, defaults)}: {error}") from None
        folder, where = out(made), entry.lines.get("out", entry.where)
        if folder in seen:
            raise UsageError(f"{where}: out: {folder} is also that of {seen[folder]}; give each corpus its own")
        seen[folder] = where
        built.append(made)
    return built


def _at_fault(entry: Entry, build: Callable[[dict[str, Any]], Any], defaults: dict[str, Any]) -> str:
    """The last line without whose value there is no mistake."""
    for name, where in sorted(entry.lines.items(), key=lambda item: int(item[1].rpartition(":")[2]), reverse=True):
        try:
            build({**entry.params, name: defaults[name]})
        except UsageError:
            continue
        return where
    return entry.where


class _Job:
    def __init__(self, path: str, ctx: click.Context) -> None:
        self.path, self.ctx = path, ctx
        self.options: dict[str, click.Option] = {}
        for option in ctx.command.get_params(ctx):
            if isinstance(option, click.Option) and option.name not in NOT_IN_A_FILE:
                self.options |= {name.removeprefix("--"): option for name in option.opts if name.startswith("--")}

    def wrong(self, line: int, message: str) -> UsageError:
        return UsageError(f"{self.path}:{line}: {message}")

    def at(self, node: yaml.Node) -> int:
        return int(node.start_mark.line) + 1

    def entries(self) -> list[Entry]:
        root = self.read()
        shared, corpora = self.mapping(root, top=True)
        if corpora is None:
            entries = [self.entry(shared, {}, f"{self.path}:{self.at(root)}")]
        else:
            if "corpus" in shared:
                raise UsageError(f"{shared['corpus'].where}: corpus: and corpora: do not go together; move it into the list")
            if self.typed("corpus"):
                raise UsageError(f"--corpus on the command line does not go with {self.path}, which has corpora: a list")
            entries = [self.entry(shared, self.mapping(node)[0], f"{self.path}:{self.at(node)}") for node in corpora]
        return entries

    def entry(self, shared: dict[str, _Given], own: dict[str, _Given], where: str) -> Entry:
        given = {name: found for name, found in {**shared, **own}.items() if not self.typed(name)}
        with_value = {name: found for name, found in given.items() if found.value is not None}
        params = {**self.ctx.params, **{name: found.value for name, found in with_value.items()}}
        if not params["corpus"]:
            raise UsageError(f"{where}: no corpus: add corpus: NAME, or corpora: a list of mappings with one each")
        return Entry(where=where, params=params, lines={name: found.where for name, found in with_value.items()})

    def typed(self, name: str) -> bool:
        """Whether an option was given on the command line."""
        return self.ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE

    def read(self) -> yaml.MappingNode:
        try:
            text = Path(self.path).expanduser().read_bytes().decode("utf-8-sig")
        except FileNotFoundError:
            raise UsageError(f"no file {self.path!r}: --config takes a YAML file of options") from None
        except UnicodeDecodeError as error:
            raise self.wrong(error.object[: error.start].count(b"\n") + 1, "not text in UTF-8") from None
        except OSError as error:
            raise UsageError(f"cannot read {self.path}: {error.strerror}") from None
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = error.problem or error.context or "not YAML"
            if "'\\t'" in problem:
                problem = "a tab; YAML is indented with spaces"
            raise self.wrong(mark.line + 1 if mark else 1, f"not YAML: {problem}") from None
        except yaml.reader.ReaderError as error:
            raise self.wrong(text[: error.position].count("\n") + 1, f"not YAML: character {error.character:#x} is not allowed") from None
        except RecursionError:
            raise self.wrong(1, "not a job: nested too deeply") from None
        if root is None:
            raise self.wrong(1, "no corpus: the file is empty")
        if not isinstance(root, yaml.MappingNode):
            raise self.wrong(self.at(root), "options are needed, as `name: value`, one per line")
        return root

    def mapping(self, node: yaml.Node, *, top: bool = False) -> tuple[dict[str, _Given], list[yaml.Node] | None]:
        """The options of a mapping, by parameter, and its list of corpora."""
        if not isinstance(node, yaml.MappingNode):
            raise self.wrong(self.at(node), "each of corpora: is a mapping, as `- corpus: NAME`")
        given: dict[str, _Given] = {}
        corpora: list[yaml.Node] | None = None
        lines: dict[str, int] = {}
        for key, value in node.value:
            name = key.value.replace("_", "-") if isinstance(key, yaml.ScalarNode) else ""
            if name in lines:
                raise self.wrong(self.at(key), f"{name} is given twice, first in line {lines[name]}")
            lines[name] = self.at(key)
            if top and name == CORPORA:
                if not isinstance(value, yaml.SequenceNode) or not value.value:
                    raise self.wrong(self.at(key), f"{CORPORA}: takes a list of mappings, as `- corpus: NAME`")
                corpora = value.value
                continue
            option = self.options.get(name)
            if option is None or option.name is None:
                raise self.unknown(key, name, top=top)
            given[option.name] = _Given(f"{self.path}:{self.at(value)}", self.value(option, name, value))
        return given, corpora

    def unknown(self, key: yaml.Node, name: str, *, top: bool) -> UsageError:
        known = [*self.options, *([CORPORA] if top else [])]
        near = difflib.get_close_matches(name, known, 1, 0.6)
        key_text = key.value if isinstance(key, yaml.ScalarNode) else "this"
        if name == CORPORA:
            return self.wrong(self.at(key), "corpora: goes at the top, not into one of its own")
        if name in NOT_IN_A_FILE:
            return self.wrong(self.at(key), f"{key_text} goes on the command line, not into a file")
        return self.wrong(self.at(key), f"no option {key_text!r}{f'; is {near[0]} meant?' if near else ', see textsmooth-gen --help'}")

    def value(self, option: click.Option, name: str, node: yaml.Node) -> Any:
        """A value as the command takes it; None for null: as if it were not given."""
        if isinstance(node, yaml.SequenceNode) and option.multiple:
            words: Any = tuple(self.word(name, part) for part in node.value)
            if None in words:
                raise self.wrong(self.at(node), f"{name}: null is no value of a list")
        elif isinstance(node, yaml.ScalarNode):
            words = self.word(name, node)
            if words is None:
                return None
            words = (words,) if option.multiple else words
        else:
            what = "a mapping" if isinstance(node, yaml.MappingNode) else "a list"
            raise self.wrong(self.at(node), f"{name}: takes one value{' or a list of them' if option.multiple else ''}, not {what}")
        try:
            return option.process_value(self.ctx, words)
        except click.UsageError as error:
            raise self.wrong(self.at(node), f"{name}: {first_line(error).rstrip('.')}") from None
        except UsageError as error:
            raise self.wrong(self.at(node), f"{name}: {error}") from None

    def word(self, name: str, node: yaml.Node) -> str | None:
        """A scalar as it is written, with its environment variables; None for null."""
        if not isinstance(node, yaml.ScalarNode):
            raise self.wrong(self.at(node), f"{name}: takes values, not lists or mappings in a list")
        if node.tag not in SCALARS:
            raise self.wrong(self.at(node), f"{name}: tags like {node.tag} are not taken, write the value as text")
        if node.tag == NULL:
            return None

        def variable(found: re.Match[str]) -> str:
            if found["escaped"]:
                return "${"
            if found["name"] is None:
                raise self.wrong(self.at(node), f"{name}: '${{{found['wrong'][:20]}' is no variable: write ${{NAME}} or ${{NAME:-default}}")
            value, default = os.environ.get(found["name"]), found["default"]
            if value is None and default is None:
                missing = found["name"]
                raise self.wrong(self.at(node), f"{name}: the environment has no {missing}; set it, or write ${{{missing}:-default}}")
            return default[2:] if default is not None and not value else value or ""

        return VARIABLE.sub(variable, node.value)
