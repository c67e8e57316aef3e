"""Reads the configuration file: YAML in, plain values and the line of each key out.

Owns PyYAML and what can be wrong with the file itself. Knows no key by name: what the keys mean is
said in ``bot.config``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trust.errors import ConfigurationWrong

MAX_BYTES = 1_000_000

KeyPath = tuple[str | int, ...]
"""Where a value stands: names of keys, and positions in lists from 0."""


@dataclass(frozen=True, slots=True)
class Document:
    """What the file says. ``values`` are of YAML's own types; ``lines`` tells where each key stands, from 1."""

    values: dict[str, Any] = field(repr=False)
    lines: dict[KeyPath, int] = field(repr=False)

    def line_of(self, path: KeyPath) -> int | None:
        """The line of ``path``, or of the nearest key around it."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[:-1]
        return None


def read(path: Path) -> Document:
    """Raises ConfigurationWrong if the file is absent, no YAML, or says a key twice."""
    try:
        return _document(_text(path), path)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        plain = error.problem if isinstance(error, _NotPlain) else None
        mistake = plain or "this is not valid YAML. Look at the spaces, colons and quotes there."
        raise _wrong(path, f"line {line}: {mistake}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise _wrong(path, "this is not valid YAML. Start anew from config.example.yaml.") from error


def _document(text: str, path: Path) -> Document:
    loader = _PlainLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Document({}, {})
        if not isinstance(node, yaml.MappingNode):
            raise _wrong(path, "must hold keys, each with a value. Start anew from config.example.yaml.")
        return Document(loader.construct_document(node), dict(_lines(node)))
    finally:
        loader.dispose()


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        fix = f"Write one with: secir init --config {path}, or name another with: --config FILE"
        raise _wrong(path, f"can't be read ({error.strerror}). {fix}") from error
    if len(raw) > MAX_BYTES:
        raise _wrong(path, f"is larger than {MAX_BYTES} bytes. Give the path of a configuration file.")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _wrong(path, "is not UTF-8 text. Save it again as UTF-8.") from error


def scalar(value: object) -> str:
    """A value as it is written in the file, quoted where YAML needs it."""
    return yaml.safe_dump(value, width=1000, allow_unicode=True).removesuffix("\n...\n").strip()


class _NotPlain(yaml.MarkedYAMLError):
    """Valid YAML that says something this file has no use for, in words of our own."""


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader without aliases (a short file could unfold into a huge one) and without silent doubles."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark: yaml.Mark = self.get_event().start_mark  # type: ignore[no-untyped-call]
            raise _NotPlain(problem="aliases (*name) are not read here. Write the value itself.", problem_mark=mark)
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            problem = None
            if not isinstance(key, yaml.ScalarNode):
                problem = "a key must be one word. Look at the colons there."
            elif key.value in seen:
                problem = f"the key {key.value} is there twice. Keep one of them."
            if problem:
                raise _NotPlain(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return node


def _lines(node: yaml.Node, path: KeyPath = ()) -> Iterator[tuple[KeyPath, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*path, key.value), key.start_mark.line + 1
            yield from _lines(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*path, index), item.start_mark.line + 1
            yield from _lines(item, (*path, index))


def _wrong(path: Path, mistake: str) -> ConfigurationWrong:
    return ConfigurationWrong(mistakes=f"{path}: {mistake}")
