"""Failed messages: what stands in the failure transports, and what a person can do about it.

Nothing here loses a message. A retry sends first, waits for the broker's confirmation and removes then: a crash in
between leaves a message twice, never not at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from bus import failpoints
from bus.envelope import Envelope
from bus.errors import BusError, ConnectionLostError, TransportError, describe, quoted
from bus.headers import DELIVERIES, ORIGIN, POSTPONED, STAMP_PREFIX, SYMFONY_STAMPS
from bus.messages import MessageTypes, UndecodableMessage, wire_name
from bus.retry import causes_of
from bus.settlement import Settler
from bus.stamps import (
    ClaimStamp,
    DelayStamp,
    OriginStamp,
    ParkDecisionStamp,
    PostponedStamp,
    RedeliveryStamp,
    SentToFailureTransportStamp,
    Stamp,
)
from bus.transports.base import Claim, Outgoing
from bus.transports.transport import Transport
from bus.waiting import WaitingMessage, waiting

_BATCH = 100
_GONE = "it is no longer there, or another process holds it"

# What a message bears because it failed. It starts anew without it; its errors and its successful handlers stay.
_STAMPS_OF_FAILURE: tuple[type[Stamp], ...] = (
    SentToFailureTransportStamp,
    OriginStamp,
    RedeliveryStamp,
    DelayStamp,
    PostponedStamp,
)
_HEADERS_OF_FAILURE = {
    ORIGIN,
    POSTPONED,
    DELIVERIES,
    *(f"{STAMP_PREFIX}{SYMFONY_STAMPS}{stamp.__name__}" for stamp in _STAMPS_OF_FAILURE),
}


@dataclass(frozen=True, slots=True)
class Selected:
    """A failed message that was chosen to be retried or removed: where it stands, without its content."""

    id: str
    transport_name: str
    transport_id: str | int
    type_name: str
    parked: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a chosen message.

    ``kept``: it stays in the failure transport, ``detail`` says why. ``gone``: it is no longer there, or another
    process holds it. ``sent``: ``detail`` names the transport.
    """

    selected: Selected
    result: Literal["sent", "handled", "removed", "kept", "gone"]
    detail: str = ""


@dataclass(frozen=True, slots=True)
class _Taken:
    selected: Selected
    store: Transport
    envelope: Envelope
    claim: Claim


class FailedMessages:
    """The messages in some failure transports. Blocks; one thread at a time.

    Args:
        stores: the failure transports.
        transports: every transport by name, for sending messages back.
        types: resolves what a class filter names.
        settler: concludes what is handled here.
        dispatch: hands a received message to its bus, as a worker does.
    """

    def __init__(
        self,
        stores: Sequence[Transport],
        transports: Mapping[str, Transport],
        types: MessageTypes,
        settler: Settler,
        dispatch: Callable[[Envelope], Envelope],
    ) -> None:
        self._stores = {store.name: store for store in stores}
        self._transports = transports
        self._types = types
        self._settler = settler
        self._dispatch = dispatch

    def list(self, ids: Collection[str] = (), class_filter: str | None = None) -> Iterator[WaitingMessage]:
        """Yield failed messages, the oldest of each failure transport first, without claiming them.

        Those of these ids where ids are given, and of this class where one is given: a wire name, an alias or a Python
        path. Several messages have one id when several subscribers of one message failed.

        Raises:
            ConfigurationError: a failure transport cannot list its messages.
        """
        known = self._types.by_name(class_filter) if class_filter is not None else None
        wanted_class = wire_name(known) if known is not None else class_filter
        wanted_ids = frozenset(ids)
        for store in self._stores.values():
            for message in waiting(store):
                if (not wanted_ids or message.id in wanted_ids) and wanted_class in (None, message.type_name):
                    yield message

    def count_by_class(self, class_filter: str | None = None) -> Mapping[str, int]:
        """Return how many messages of each class failed, the most frequent first."""
        counter = Counter(message.type_name for message in self.list(class_filter=class_filter))
        return dict(counter.most_common())

    def select(self, ids: Collection[str] = (), class_filter: str | None = None) -> Sequence[Selected]:
        """Choose failed messages as ``list`` does. What fails anew while they are retried is not among them."""
        return [
            Selected(each.id, each.transport_name, each.transport_id, each.type_name, each.state == "parked")
            for each in self.list(ids, class_filter)
        ]

    def retry(self, selection: Sequence[Selected]) -> Iterator[Outcome]:
        """Send messages back to where they failed, confirmed, and then remove them; yield what became of each.

        A message goes to the queue, topic or stream that it came from only, not to other subscribers. It starts anew,
        with all its retries; handlers that succeeded do not run again. Bytes that could not be decoded go as they came.

        Raises:
            TransportError: the failure transport cannot be reached. (Where it is another transport that cannot be
                reached, its messages are kept.)
        """
        for batch in _in_batches(selection):
            with self._taking(batch) as taken:
                yield from self._gone(batch, taken)
                yield from self._send_back(taken)

    def handle(self, selection: Sequence[Selected]) -> Iterator[Outcome]:
        """Handle messages in this process, one by one; those that fail again stay, with their new error.

        Ctrl-C in a handler is that handler's failure, and the last message.

        Raises:
            TransportError: the failure transport cannot be reached.
        """
        for selected in selection:
            with self._taking([selected]) as taken:
                yield from self._gone([selected], taken)
                for each in taken:
                    outcome, interrupted = self._handle(each)
                    yield outcome
                    if interrupted:
                        return

    def remove(self, selection: Sequence[Selected]) -> Iterator[Outcome]:
        """Remove messages for good.

        Raises:
            TransportError: the failure transport cannot be reached.
        """
        for batch in _in_batches(selection):
            with self._taking(batch) as taken:
                for each in taken:
                    each.store.ack(each.envelope)
                self._flush()
                yield from self._gone(batch, taken)
                yield from (Outcome(each.selected, "removed") for each in taken)

    @contextmanager
    def _taking(self, batch: Sequence[Selected]) -> Iterator[Sequence[_Taken]]:
        """Claim messages; when something goes wrong before they are settled, they come back when all is closed."""
        taken: list[_Taken] = []
        try:
            for selected in batch:
                store = self._stores[selected.transport_name]
                envelope = store.take(selected.transport_id)
                stamp = envelope.last(ClaimStamp) if envelope is not None else None
                if envelope is not None and stamp is not None and stamp.claim.begin():
                    taken.append(_Taken(selected, store, envelope, stamp.claim))
            yield taken
        except BaseException:
            for each in taken:
                each.claim.rest()
            raise

    def _send_back(self, taken: Sequence[_Taken]) -> Sequence[Outcome]:
        outcomes: list[Outcome] = []
        ready: dict[str, list[tuple[_Taken, Outgoing]]] = {}
        for each in taken:
            try:
                target = self._target(each.envelope)
                ready.setdefault(target.name, []).append((each, _started_anew(each, target)))
            except BusError as error:
                outcomes.append(_keep(each, str(error)))
        for name, items in ready.items():
            try:
                results = self._transports[name].send_each([outgoing for _, outgoing in items])
            except TransportError as error:
                results = [error] * len(items)
            failpoints.reach("failed_retry_sent")
            for (each, _), result in zip(items, results, strict=True):
                if isinstance(result, TransportError):
                    outcomes.append(_keep(each, describe(result)))
                else:
                    each.store.ack(each.envelope)
                    outcomes.append(Outcome(each.selected, "sent", name))
        self._flush()
        return outcomes

    def _target(self, envelope: Envelope) -> Transport:
        given_up = envelope.last(SentToFailureTransportStamp)
        if given_up is None:
            raise BusError("Nothing says which transport it came from; it can be handled in this process instead.")
        name = given_up.original_receiver_name
        if name not in self._transports:
            raise BusError(
                f'It came from the transport "{name}", which does not exist; valid ones are {quoted(self._transports)}.'
            )
        return self._transports[name]

    def _handle(self, taken: _Taken) -> tuple[Outcome, bool]:
        """Return the outcome, and whether a person interrupted it."""
        if isinstance(taken.envelope.message, UndecodableMessage):
            return _keep(taken, taken.envelope.message.reason), False
        try:
            result: Envelope | BaseException = self._dispatch(taken.envelope)
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is settled as its failure
            result = error
        self._settler.conclude(taken.envelope, result)
        self._flush()
        failure = _failure_of(result)
        if failure is None:
            return Outcome(taken.selected, "handled"), False
        interrupted = any(isinstance(cause, KeyboardInterrupt) for cause in causes_of(failure))
        return Outcome(taken.selected, "kept", describe(failure)), interrupted

    def _gone(self, batch: Sequence[Selected], taken: Sequence[_Taken]) -> Iterator[Outcome]:
        held = {id(each.selected) for each in taken}
        return (Outcome(each, "gone", _GONE) for each in batch if id(each) not in held)

    def _flush(self) -> None:
        for store in self._stores.values():
            store.flush()
            if store.unsettled:
                raise ConnectionLostError(
                    f'The failure transport "{store.name}" does not answer: {store.unsettled} messages that were sent, '
                    "handled or removed may still stand there, and would be sent or handled again."
                )


def _started_anew(taken: _Taken, target: Transport) -> Outgoing:
    """Encode a message for where it came from, with its original bytes and without the marks of its failure."""
    origin = taken.envelope.last(OriginStamp)
    envelope = taken.envelope.without(*_STAMPS_OF_FAILURE)
    message = envelope.message
    if isinstance(message, UndecodableMessage):
        # Its stamps were read from these headers, which go out again as they are.
        headers = {name: value for name, value in message.headers.items() if name not in _HEADERS_OF_FAILURE}
        envelope = Envelope(UndecodableMessage(message.body, headers, message.reason), envelope.stamps)
    return target.encode_received(envelope, taken.store, origin=origin.origin if origin is not None else None)


def _keep(taken: _Taken, why: str) -> Outcome:
    if taken.selected.parked:
        taken.store.park(taken.envelope)
    else:
        taken.store.requeue(taken.envelope, 0)
    return Outcome(taken.selected, "kept", why)


def _failure_of(result: Envelope | BaseException) -> BaseException | None:
    if isinstance(result, BaseException):
        return result
    parked = result.last(ParkDecisionStamp)
    return parked.error if parked is not None else None


def _in_batches(selection: Sequence[Selected]) -> Iterator[Sequence[Selected]]:
    return (selection[at : at + _BATCH] for at in range(0, len(selection), _BATCH))
