"""What the global options say, and how a command gets at the messenger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import bus
from bus.cli.output import Output
from bus.errors import ConfigurationError

if TYPE_CHECKING:
    from bus.messenger import Messenger


@dataclass(slots=True)
class Settings:
    """The global options of one run of the command. ``verbosity`` counts the ``-v``."""

    config: str | None = None
    app: str | None = None
    ansi: bool | None = None
    verbosity: int = 0

    @property
    def output(self) -> Output:
        """Where the command prints."""
        return Output(self.ansi)

    def config_file(self) -> Path:
        """Return the configuration file.

        Raises:
            ConfigurationError: there is none; its text lists the paths that were looked at.
        """
        from bus.config import loader

        path = loader.find(self.config)
        if path is None:
            searched = "\n".join(f"  {each}" for each in loader.searched_paths())
            raise ConfigurationError(
                f"No configuration file was found. Looked at:\n{searched}\nName one with --config or $BUS_CONFIG."
            )
        return path

    def as_arguments(self) -> list[str]:
        """Return the options as the command line of another process says them."""
        named = {"--config": self.config, "--app": self.app}
        given = [f"{name}={value}" for name, value in named.items() if value is not None]
        if self.ansi is not None:
            given.append("--ansi" if self.ansi else "--no-ansi")
        return given + ["--verbose"] * self.verbosity

    @contextmanager
    def messenger(self) -> Iterator[Messenger]:
        """Build the messenger of the application or of the configuration file, and close it afterwards."""
        from bus.default_messenger import as_default
        from bus.messenger import Messenger

        app = self.app
        if app is not None:
            with as_default(lambda: _messenger_of(app)) as messenger:
                yield messenger
            return
        path = self.config_file()
        warn_of_a_shadow(self.output)
        with as_default(lambda: Messenger.from_yaml(path)) as messenger:
            yield messenger


def _messenger_of(app: str) -> Messenger:
    from bus.config.discovery import import_object
    from bus.messenger import Messenger

    found = import_object(app)
    messenger = found() if callable(found) else found
    if not isinstance(messenger, Messenger):
        raise ConfigurationError(
            f'--app "{app}" is of the type "{type(messenger).__qualname__}"; expected a Messenger, or a function that '
            "returns one."
        )
    return messenger


def warn_of_a_shadow(output: Output) -> None:
    """Say so when a ``bus`` of the user's own in the working directory hides this package from their programs."""
    ours = Path(bus.__file__).resolve()
    for candidate in (Path("bus.py"), Path("bus", "__init__.py")):
        if candidate.is_file() and candidate.resolve() != ours:
            output.note(
                f'The file "{candidate.resolve()}" has the name of the package "bus": programs started in this '
                "directory import it instead of the message bus. Rename it."
            )
