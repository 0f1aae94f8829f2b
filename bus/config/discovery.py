"""Finds messages, handlers and stamps in the modules that the configuration imports."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from bus.errors import ConfigurationError, describe
from bus.handlers import scan
from bus.messages import is_marked, main_module_name
from bus.stamps import Stamp


@dataclass(slots=True)
class Discovered:
    """What stands in some modules: marked message classes, handlers, and stamps with a name."""

    messages: list[type] = field(default_factory=list)
    handlers: list[Any] = field(default_factory=list)
    stamps: list[type[Stamp]] = field(default_factory=list)


def discover(modules: Iterable[ModuleType]) -> Discovered:
    """Scan modules, each object once, however many modules show it."""
    found = Discovered()
    seen: set[int] = set()
    for module in modules:
        for kind, member in _marked(module):
            if id(member) not in seen:
                seen.add(id(member))
                getattr(found, kind).append(member)
    return found


def _marked(module: ModuleType) -> Iterator[tuple[str, Any]]:
    for member in list(vars(module).values()):
        if isinstance(member, type):
            if is_marked(member):
                yield "messages", member
            if issubclass(member, Stamp) and "__bus_stamp__" in vars(member):
                yield "stamps", member
    for target in scan(module):
        yield "handlers", target


def import_module(name: str) -> ModuleType:
    """Import a module of the user's; the working directory is importable.

    The running ``__main__`` is not imported a second time under its own name: its classes would exist twice.

    Raises:
        ConfigurationError: it does not exist, or raises while it is imported.
    """
    make_working_directory_importable()
    if name == main_module_name():
        sys.modules.setdefault(name, sys.modules["__main__"])
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigurationError(
                f'there is no module "{error.name}" to import (looked up from {Path.cwd()})'
            ) from error
        raise ConfigurationError(f'the module "{name}" cannot be imported: {describe(error)}') from error
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f'the module "{name}" cannot be imported: {describe(error)}') from error


def import_object(path: str) -> Any:
    """Import ``module:name`` or ``module.name``; nested names (``module.Class.Inner``) work too.

    Raises:
        ConfigurationError: there is no such module, or no such name in it.
    """
    module_name, colon, qualname = path.partition(":")
    if colon:
        return _attribute(import_module(module_name), qualname, path)
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:length])
        try:
            module = import_module(name)
        except ConfigurationError as error:
            if length > 1 and isinstance(error.__cause__, ModuleNotFoundError):
                continue
            raise
        return _attribute(module, ".".join(parts[length:]), path)
    raise ConfigurationError(f'"{path}" is no dotted path; write "module.Name"')


def _attribute(module: ModuleType, qualname: str, path: str) -> Any:
    found: Any = module
    for name in qualname.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ConfigurationError(f'"{path}" does not exist: "{module.__name__}" has no "{qualname}"') from None
    return found


def make_working_directory_importable() -> None:
    """Put the working directory on ``sys.path``, as ``python -m`` does; behind what is there already."""
    directory = str(Path.cwd())
    if directory not in sys.path and "" not in sys.path:
        sys.path.append(directory)
