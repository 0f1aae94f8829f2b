"""How a worker works."""

from __future__ import annotations

from dataclasses import dataclass

from bus.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How a worker works.

    Attributes:
        concurrency: how many messages are handled at once in this process. Raise it for handlers that wait.
        fetch_size: how many messages a receiver may hold unsettled; None: what 100 ms of work need.
        sleep: the longest pause in seconds between two looks at a receiver that cannot wake the worker.
        queues: read only these queues of each receiver; empty: all.
        fail_fast: end, with the error, as soon as a receiver cannot be read, instead of trying again.
        shutdown_timeout: seconds that running handlers get after SIGTERM or SIGINT.
        stop_when_empty: stop as soon as no receiver has a message that is due.
    """

    concurrency: int = 1
    fetch_size: int | None = None
    sleep: float = 1.0
    queues: tuple[str, ...] = ()
    fail_fast: bool = False
    shutdown_timeout: float = 25.0
    stop_when_empty: bool = False

    def __post_init__(self) -> None:
        problems = []
        if self.concurrency < 1:
            problems.append(f'The worker option "concurrency" is {self.concurrency}; it must be at least 1.')
        if self.fetch_size is not None and self.fetch_size < 1:
            problems.append(f'The worker option "fetch_size" is {self.fetch_size}; it must be at least 1.')
        if not self.sleep > 0:
            problems.append(f'The worker option "sleep" is {self.sleep}; it must be more than 0 seconds.')
        if not self.shutdown_timeout >= 0:
            problems.append(
                f'The worker option "shutdown_timeout" is {self.shutdown_timeout}; it must not be negative.'
            )
        if problems:
            raise ConfigurationError(*problems)
