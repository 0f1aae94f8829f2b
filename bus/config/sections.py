"""From a whole file to the model: which parts of it are ours, which environment counts, what is left aside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from bus.config.assembly import Assembly
from bus.config.checks import check
from bus.config.environment import Environment, default_connection
from bus.config.grammar import MESSENGER
from bus.config.merging import merge
from bus.config.nodes import MOST_PROBLEMS, Node, Report, below, shown, suggestion
from bus.config.placeholders import Placeholders, without_placeholders
from bus.config.schema import MessengerConfig
from bus.config.validation import UNSET, read

_OURS = ("framework", "messenger", "parameters")
_WHEN = "when@"
_RATE_LIMITER = "rate_limiter"
_VALID = 'valid are "framework", "messenger", "parameters", "when@..." and "x-..."'


@dataclass(frozen=True, slots=True)
class _Section:
    """What one part of the file says: the top level, or what stands under one ``when@ENV``."""

    messenger: Node | None = None
    parameters: Node | None = None


def interpret(document: Node, environment: Environment, report: Report) -> MessengerConfig:
    """Return the model of a file.

    Raises:
        ConfigurationError: with every problem that was found.
    """
    sections = _sections(document, environment, report)
    if not report.has_problems and not any(section.messenger for section in sections):
        report.error("", 'there is no "messenger:", at the top or under "framework:"', document.mark)
    values = _values(sections, environment, report)
    config = Assembly(report).config(values, {"default": default_connection(environment.variables)})
    for path, what in islice(check(config, report.value_at), MOST_PROBLEMS + 1):
        report.error(path, what)
    report.raise_problems()
    return config


def _sections(document: Node, environment: Environment, report: Report) -> list[_Section]:
    """Return the general section and the one of this environment; those of others are only checked."""
    sections = [_section(document, "", report)]
    for key, node in document.value.items() if isinstance(document.value, dict) else ():
        if key == _WHEN + environment.name:
            sections.append(_section(node, key, report))
        elif key.startswith(_WHEN):
            elsewhere = Report(report.source)
            section = _section(node, key, elsewhere)
            if section.messenger is not None:
                read(without_placeholders(section.messenger), MESSENGER, key, elsewhere)
            report.take_problems(elsewhere)
    return sections


def _section(node: Node, path: str, report: Report) -> _Section:
    """Find the two parts that are ours, report what cannot be read in them, and note or refuse everything else."""
    if node.value is None:
        return _Section()
    if not isinstance(node.value, dict):
        report.error(path, "expected a map", node.mark)
        return _Section()
    _report_own(node, path, report)
    entries = node.value
    for key, child in entries.items():
        known = key in _OURS or key.startswith("x-") or (key.startswith(_WHEN) and not path)
        if not known:
            _left_aside(key, child, path, report, beside_framework="framework" in entries)
    messenger = entries.get("messenger")
    if "framework" in entries:
        inside = _framework(entries["framework"], below(path, "framework"), report)
        if inside is not None and messenger is not None:
            report.error(path, '"messenger" stands twice: here and under "framework"', messenger.start)
        messenger = inside or messenger
    parameters = entries.get("parameters")
    if messenger is not None:
        _report_unreadable(messenger, path, report)
    if parameters is not None:
        _report_unreadable(parameters, below(path, "parameters"), report)
        if not isinstance(parameters.value, dict | None):
            report.error(below(path, "parameters"), "expected a map", parameters.mark)
    return _Section(messenger, parameters)


def _framework(node: Node, path: str, report: Report) -> Node | None:
    if not isinstance(node.value, dict | None):
        report.error(path, "expected a map", node.mark)
    if not isinstance(node.value, dict):
        return None
    _report_own(node, path, report)
    messenger = node.value.get("messenger")
    for key, child in node.value.items():
        if key == "messenger":
            continue
        if key == _RATE_LIMITER and isinstance(child.value, dict):
            messenger = _with_rate_limiters(messenger, child, path, report)
            continue
        typo = suggestion(key, ("messenger", _RATE_LIMITER))
        if typo and key != _RATE_LIMITER:
            report.error(path, f"unknown key {shown(key)}{typo}", child.start)
        else:
            report.note(below(path, key), "left aside: it is no part of messenger", child.start)
    return messenger


def _with_rate_limiters(messenger: Node | None, limiters: Node, path: str, report: Report) -> Node | None:
    """Put the rate limiters of the framework where ours stand: into messenger."""
    entries = dict(limiters.value) if isinstance(limiters.value, dict) else {}
    entries.pop("enabled", None)
    if set(entries) == {"limiters"} and isinstance(entries["limiters"].value, dict):
        entries = entries["limiters"].value
    grafted = replace(limiters, value=entries)
    if messenger is None:
        # In the section of an environment they may stand alone; a file without any messenger stays one.
        return Node({_RATE_LIMITER: grafted}, limiters.start) if path.startswith(_WHEN) else None
    if not isinstance(messenger.value, dict | None):
        return messenger
    inside = messenger.value or {}
    if _RATE_LIMITER in inside:
        report.error(path, f'"{_RATE_LIMITER}" stands twice: here and under "messenger"', limiters.start)
    return replace(messenger, value={_RATE_LIMITER: grafted, **inside})


def _left_aside(key: str, node: Node, path: str, report: Report, *, beside_framework: bool) -> None:
    """Note a section of another bundle. Without "framework" the file is ours alone, and the key is a mistake."""
    typo = suggestion(key, _OURS)
    if typo or not beside_framework:
        wrong_place = f'; it belongs under "messenger" ({_VALID})' if key in MESSENGER.keys else f"; {_VALID}"
        report.error(path, f"unknown key {shown(key)}{typo or wrong_place}", node.start)
    else:
        report.note(below(path, key), "left aside: it belongs to another part of the application", node.start)


def _report_own(node: Node, path: str, report: Report) -> None:
    for mark, what in node.problems:
        report.error(path, what, mark)


def _report_unreadable(node: Node, path: str, report: Report) -> None:
    _report_own(node, path, report)
    if isinstance(node.value, list):
        for position, each in enumerate(node.value):
            _report_unreadable(each, below(path, position), report)
    elif isinstance(node.value, dict):
        for key, each in node.value.items():
            _report_unreadable(each, below(path, key), report)


def _values(sections: list[_Section], environment: Environment, report: Report) -> dict[str, object]:
    """Return the values of the merged sections, with their placeholders replaced."""
    parameters = dict(_of_the_kernel(environment))
    messenger: Node | None = None
    for section in sections:
        if section.parameters is not None and isinstance(section.parameters.value, dict):
            parameters.update(section.parameters.value)
        if section.messenger is not None:
            messenger = section.messenger if messenger is None else merge(messenger, section.messenger, MESSENGER)
    if messenger is None:
        return {}
    values = read(Placeholders(environment, parameters, report).replaced(messenger, ""), MESSENGER, "", report)
    if values is UNSET:
        return {}
    if values.get("enabled") is False:
        what = f"messenger is switched off in the environment {shown(environment.name)}: there is no bus to use"
        report.error("enabled", what)
    return dict(values)


def _of_the_kernel(environment: Environment) -> Iterator[tuple[str, Node]]:
    """Yield the parameters that Symfony's kernel always has."""
    project = environment.project
    values = {
        "project_dir": str(project),
        "environment": environment.name,
        "cache_dir": str(project / "var" / "cache" / environment.name),
        "logs_dir": str(project / "var" / "log"),
    }
    for name, value in values.items():
        yield f"kernel.{name}", Node(value, (1, 1))
