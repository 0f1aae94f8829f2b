"""Every error that the package raises.

BusError
├── ConfigurationError              the configuration is wrong; carries every problem found
│   └── MissingExtraError           a transport needs a library that is not installed
├── RecoverableError                mark: trying again may help (optional ``retry_delay`` in milliseconds)
├── UnrecoverableError              mark: trying again cannot help; straight to the failure transport
│   ├── NoHandlerError              no handler for a message
│   ├── NoSenderError               no transport for a message, on a bus that asks for one
│   ├── ValidationFailedError       a message is not valid; carries every violation
│   ├── MissingMessageIdError       idempotency is asked for, and the message has no stable id
│   ├── EncodingError               a message or stamp cannot be written
│   └── DecodingError               bytes and headers cannot be read
├── InProgressElsewhereError        another call has claimed this message; it is postponed, which is no attempt
├── HandlerFailedError              one or more handlers failed; carries the envelope and every cause
├── DelayedMessageHandlingError     what a handler had put off until all were through failed; carries every cause
├── BatchFailedError                raised by a batch handler: some of its messages failed; says which
├── DispatchManyError               some messages of a ``dispatch_many`` failed; one entry per failed message
├── WorkerProcessesError            worker processes cannot start, keep dying, or did not stop in time
├── SendFailedError                 some of several senders failed; says which got the message
└── TransportError                  something between this process and a broker or store
    ├── SendRefused                 surely not stored: unroutable, too large, not allowed
    ├── SendUnknown                 perhaps stored; dispatching the same envelope again keeps its message id
    ├── ConnectionLostError         the server cannot be reached; the worker tries again
    └── AccessDeniedError           wrong credentials or missing rights; trying again cannot help

A handler's own exception steers the retry by inheriting from RecoverableError or UnrecoverableError.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bus.envelope import Envelope


class BusError(Exception):
    """Base of every error of this package."""


class ConfigurationError(BusError):
    """The configuration cannot be used.

    ``problems`` holds one line per problem; the text of the error is these lines.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class MissingExtraError(ConfigurationError):
    """An optional library is not installed; the message names the commands that install it."""


class RecoverableError(BusError):
    """Mark an error as worth another try, within ``max_retries``.

    ``retry_delay`` is in milliseconds and replaces the delay of the retry policy; None keeps the policy's.
    """

    def __init__(self, *args: object, retry_delay: int | None = None) -> None:
        super().__init__(*args)
        self.retry_delay = retry_delay


class UnrecoverableError(BusError):
    """Mark an error as hopeless: no retry, straight to the failure transport."""


class NoHandlerError(UnrecoverableError):
    """No handler takes this message."""


class NoSenderError(UnrecoverableError):
    """No transport takes this message, and its bus does not allow that."""


class ValidationFailedError(UnrecoverableError):
    """A message is not valid. ``violations`` has one line for each thing that is wrong with ``message``."""

    def __init__(self, message: object, violations: Sequence[str]) -> None:
        self.message = message
        self.violations = tuple(violations)
        super().__init__(f'The message "{type(message).__qualname__}" is not valid: {"; ".join(self.violations)}')


class MissingMessageIdError(UnrecoverableError):
    """Nothing tells this message from another one, so that it cannot be handled exactly once."""


class EncodingError(UnrecoverableError):
    """A message or one of its stamps cannot be written to the wire."""


class DecodingError(UnrecoverableError):
    """Bytes and headers from the wire cannot be read as a message."""


class InProgressElsewhereError(BusError):
    """Another call has claimed this message for the same handler. It is postponed, which is no attempt."""


class HandlerFailedError(BusError):
    """One or more handlers of a message failed.

    ``envelope`` carries a HandledStamp for every handler that succeeded; ``errors`` maps a handler's name to what
    it raised, in the order in which the handlers ran.
    """

    def __init__(self, envelope: Envelope, errors: Mapping[str, BaseException]) -> None:
        self.envelope = envelope
        self.errors = dict(errors)
        lines = [f'Handler "{name}" failed: {describe(error)}' for name, error in self.errors.items()]
        super().__init__("\n".join(lines))


class DelayedMessageHandlingError(BusError):
    """Messages with a DispatchAfterCurrentBusStamp failed, and with them the handler that dispatched them."""

    def __init__(self, errors: Sequence[BaseException]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(f"A delayed message failed: {describe(error)}" for error in self.errors))


class BatchFailedError(BusError):
    """Raised by a batch handler: some of its messages failed, the others are handled.

    ``errors`` maps a message, or its position in the list, to its error. Each of these is tried again, or given up, by
    itself, as its error says.
    """

    def __init__(self, errors: Mapping[object, BaseException]) -> None:
        self.errors = dict(errors)
        first = next(iter(self.errors.values()), None)
        text = f"{len(self.errors)} messages of the batch failed"
        super().__init__(f"{text}; the first: {describe(first)}" if first is not None else text)

    def by_position(self, messages: Sequence[object]) -> list[BaseException | None]:
        """Return the error of each message, or None. What names no message of the batch fails them all."""
        found: list[BaseException | None] = [None] * len(messages)
        for key, error in self.errors.items():
            positions = _positions_of(key, messages)
            if not positions:
                return [self] * len(messages)
            for position in positions:
                found[position] = error
        return found


def _positions_of(key: object, messages: Sequence[object]) -> list[int]:
    if type(key) is int:
        return [key] if 0 <= key < len(messages) else []
    same = [position for position, message in enumerate(messages) if message is key]
    return same or [position for position, message in enumerate(messages) if message == key]


class DispatchManyError(BusError):
    """Some messages of a ``dispatch_many`` failed.

    ``errors`` maps the position in the given sequence to its error; ``envelopes`` has one entry per message, None
    where it failed.
    """

    def __init__(self, errors: Mapping[int, BaseException], envelopes: Sequence[Envelope | None]) -> None:
        self.errors = dict(errors)
        self.envelopes = tuple(envelopes)
        first, error = next(iter(self.errors.items()))
        super().__init__(
            f"{len(self.errors)} of {len(self.envelopes)} messages were not dispatched; "
            f"the first is number {first}: {describe(error)}"
        )


class SendFailedError(BusError):
    """Some senders of a message failed. ``sent`` names those that have it, ``errors`` the others."""

    def __init__(self, sent: Sequence[str], errors: Mapping[str, BaseException]) -> None:
        self.sent = tuple(sent)
        self.errors = dict(errors)
        failed = "; ".join(f'"{name}": {describe(error)}' for name, error in self.errors.items())
        has_it = ", ".join(f'"{name}"' for name in self.sent) or "none"
        super().__init__(f"The message was not sent to {failed} (transports that have it: {has_it})")


class WorkerProcessesError(BusError):
    """Supervised worker processes cannot start, keep dying before they are ready, or did not stop in time.

    ``exit_code`` is what the command line ends with.
    """

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class TransportError(BusError):
    """Something went wrong between this process and a broker or store."""


class SendRefused(TransportError):  # noqa: N818 - the field's word for this outcome, named so in the contract
    """The message is surely not stored: unroutable, too large or not allowed."""


class SendUnknown(TransportError):  # noqa: N818 - the field's word for this outcome, named so in the contract
    """The message is perhaps stored. Dispatching its envelope again keeps the message id."""


class ConnectionLostError(TransportError):
    """The server or file cannot be reached now."""


class AccessDeniedError(TransportError):
    """Wrong credentials or missing rights: a person has to change something."""


def describe(error: BaseException, limit: int = 4096) -> str:
    """Return ``Class: text`` of an error whose ``__str__`` may be hostile or huge."""
    name = type(error).__name__
    try:
        # The text may be an instance of a subclass of str, with methods of its own.
        text = str.__str__(str(error))
    except BaseException:  # noqa: BLE001 - a hostile __str__ may raise anything, SystemExit included
        return f"{name}: (its text cannot be read: __str__ raises)"
    if len(text) > limit:
        text = text[:limit] + "..."
    return f"{name}: {text}" if text else name


def quoted(names: Iterable[object]) -> str:
    """Return names as ``"a", "b"``, or ``none``."""
    return ", ".join(f'"{name}"' for name in names) or "none"


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return ``; did you mean "x"?`` for the nearest valid name, or an empty string."""
    near = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else ""
