"""The message bus: what programs dispatch on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import CoroutineType

from bus import aio
from bus.envelope import Envelope
from bus.errors import DispatchManyError, SendFailedError, TransportError, UnrecoverableError
from bus.handlers import HandlersLocator
from bus.middleware.base import Middleware, compose
from bus.stamps import HeldStamp, ReceivedStamp, SentStamp, Stamp, TransportMessageIdStamp
from bus.transports.base import Sent
from bus.unit import SendBatch, current_unit


class MessageBus:
    """Carries messages through its middleware. Thread-safe; the stack is folded once, and not at each dispatch."""

    def __init__(self, name: str, middleware: Sequence[Middleware], locator: HandlersLocator) -> None:
        self.name = name
        self.locator = locator
        self._fold(tuple(middleware))

    def surround(self, middleware: Middleware) -> Callable[[], None]:
        """Put a middleware around the whole stack, and return what takes it away. For tests and instruments.

        It sees every dispatch that begins from now on, and the first sight of received messages too.
        """
        self._fold((middleware, *self.middleware))
        return lambda: self._fold(tuple(each for each in self.middleware if each is not middleware))

    def dispatch(self, message: object, stamps: Iterable[Stamp] = ()) -> Envelope:
        """Dispatch a message, or an envelope, and return its envelope.

        Returns when the message was handled, or when a broker has taken responsibility for it; inside a handler when it
        is held for that handler's success (HeldStamp). Dispatching the returned or a failed envelope again keeps its
        message id. Blocks; on an event loop use ``dispatch_async``.

        Raises:
            HandlerFailedError, NoHandlerError: it was handled here, and that failed.
            SendRefused: a transport surely did not store it.
            SendUnknown: a transport perhaps stored it.
            SendFailedError: some of several transports do not have it.
            TypeError: ``stamps`` are no stamps.
            UnrecoverableError: a middleware returned something else than an envelope.
        """
        envelope = message if isinstance(message, Envelope) else Envelope(message)
        if stamps:
            envelope = envelope.with_(*_checked(stamps))
        received = envelope.stamps and envelope.last(ReceivedStamp) is not None
        result = self._received_chain(envelope) if received else self._chain(envelope)
        if type(result) is not Envelope:
            raise _no_envelope(self.name, result)
        return result

    async def dispatch_async(self, message: object, stamps: Iterable[Stamp] = ()) -> Envelope:
        """Dispatch a message without blocking the running event loop. Otherwise as ``dispatch``.

        ``async def`` handlers run on this loop, sync ones and sends in threads.
        """
        return await aio.run_in_greenlet(self.dispatch, message, stamps)

    def dispatch_many(self, messages: Iterable[object], stamps: Iterable[Stamp] = ()) -> list[Envelope]:
        """Dispatch messages and wait once for all that are sent; return their envelopes in the same order.

        Raises:
            DispatchManyError: some failed, with one entry per message that did; the others are dispatched.
        """
        stamps = tuple(stamps)
        if current_unit.get() is not None:
            return self._dispatch_each(messages, stamps, None)
        batch = SendBatch()
        token = current_unit.set(batch)
        try:
            return self._dispatch_each(messages, stamps, batch)
        finally:
            current_unit.reset(token)

    def _fold(self, middleware: tuple[Middleware, ...]) -> None:
        self.middleware = middleware
        self._received_chain = compose(middleware, lambda envelope: envelope)
        self._chain = compose(
            [each for each in middleware if not getattr(each, "only_received", False)], lambda envelope: envelope
        )

    def _dispatch_each(
        self, messages: Iterable[object], stamps: tuple[Stamp, ...], batch: SendBatch | None
    ) -> list[Envelope]:
        envelopes: list[Envelope | None] = []
        errors: dict[int, BaseException] = {}
        for position, message in enumerate(messages):
            if batch is not None:
                batch.position = position
            try:
                envelopes.append(self.dispatch(message, stamps))
            except Exception as error:  # noqa: BLE001 - the other messages are still dispatched
                errors[position] = error
                envelopes.append(None)
        if batch is not None:
            _send(batch, envelopes, errors)
        if errors:
            raise DispatchManyError(dict(sorted(errors.items())), envelopes)
        return [each for each in envelopes if each is not None]


def _checked(stamps: Iterable[Stamp]) -> Iterable[Stamp]:
    """Return stamps; whatever else stands there would be carried along without a meaning."""
    if isinstance(stamps, Stamp):
        raise TypeError(f"Stamps are given as a list: [{type(stamps).__name__}(...)].")
    stamps = tuple(stamps)
    for each in stamps:
        if not isinstance(each, Stamp):
            raise TypeError(f"{each!r} is no stamp; stamps are objects, such as DelayStamp(5000).")
    return stamps


def _no_envelope(bus_name: str, result: object) -> UnrecoverableError:
    if isinstance(result, CoroutineType):
        result.close()
    return UnrecoverableError(
        f'A middleware of the bus "{bus_name}" returned an object of the type "{type(result).__qualname__}" instead of '
        'the envelope, so that nobody knows what became of the message; end it with "return call_next(envelope)".'
    )


def _send(batch: SendBatch, envelopes: list[Envelope | None], errors: dict[int, BaseException]) -> None:
    """Send what was collected, one batch per transport, and note the result on each envelope."""
    sent: dict[int, list[Stamp]] = {}
    failed: dict[int, dict[str, BaseException]] = {}
    for sender, collected in batch.by_sender().items():
        try:
            results: Sequence[Sent | TransportError] = sender.send_each([outgoing for _, outgoing in collected])
        except TransportError as error:
            results = [error] * len(collected)
        for (position, _), result in zip(collected, results, strict=True):
            if isinstance(result, TransportError):
                failed.setdefault(position, {})[sender.name] = result
                continue
            stamps = sent.setdefault(position, [])
            stamps.append(SentStamp(sender.name))
            if result.transport_id is not None:
                stamps.append(TransportMessageIdStamp(result.transport_id))
    for position, envelope in enumerate(envelopes):
        stamps = sent.get(position, [])
        if envelope is not None and position in failed:
            causes = failed[position]
            names = [stamp.transport_name for stamp in stamps if isinstance(stamp, SentStamp)]
            if not names:
                batch.fail(position)
            one = len(causes) == 1 and not names
            errors[position] = next(iter(causes.values())) if one else SendFailedError(names, causes)
            envelopes[position] = None
        elif envelope is not None and stamps:
            envelopes[position] = envelope.without(HeldStamp).with_(*stamps)
