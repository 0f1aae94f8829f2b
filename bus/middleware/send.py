"""Sends a message to the transports that it is routed to."""

from __future__ import annotations

from collections.abc import Mapping

from bus.envelope import Envelope
from bus.errors import ConfigurationError, NoSenderError, SendFailedError, SendRefused, did_you_mean, quoted
from bus.middleware.base import CallNext
from bus.routing import Routing
from bus.stamps import HandledBySyncTransportStamp, HeldStamp, ReceivedStamp, TransactionStamp
from bus.transports.sync import SyncTransport
from bus.transports.transport import Transport
from bus.unit import current_unit


class SendMiddleware:
    """Sends what has a sender, and lets the rest be handled here and now.

    Inside a handler a send is held until that handler has succeeded. A received message is never sent again.
    """

    def __init__(
        self, routing: Routing, transports: Mapping[str, Transport | SyncTransport], *, allow_no_senders: bool = True
    ) -> None:
        self._routing = routing
        self._transports = transports
        self._allow_no_senders = allow_no_senders

    def __call__(self, envelope: Envelope, call_next: CallNext) -> Envelope:
        """Send the message, or pass it on."""
        for stamp in envelope.stamps:
            if type(stamp) is ReceivedStamp:
                return call_next(envelope)
        names = self._routing.of(envelope)
        if not names:
            if not self._allow_no_senders:
                raise NoSenderError(
                    f'No routing rule matches the message "{type(envelope.message).__qualname__}", '
                    "and the bus does not allow that (allow_no_senders: false)."
                )
            return call_next(envelope)
        transports = [self._transport(name) for name in names]
        senders = [each for each in transports if isinstance(each, Transport)]
        sent = self._send(envelope, senders) if senders else envelope
        for transport in transports:
            if isinstance(transport, SyncTransport):
                handled = call_next(envelope.with_(HandledBySyncTransportStamp(transport.name)))
                sent = sent.with_(*handled.stamps[len(envelope.stamps) :])
        return sent

    def _transport(self, name: str) -> Transport | SyncTransport:
        try:
            return self._transports[name]
        except KeyError:
            raise ConfigurationError(
                f'The message is routed to the transport "{name}", which does not exist; '
                f"valid transports are {quoted(self._transports)}{did_you_mean(name, self._transports)}"
            ) from None

    @staticmethod
    def _send(envelope: Envelope, senders: list[Transport]) -> Envelope:
        if len(senders) == 1:
            return _send_or_hold(envelope, senders[0])
        sent = envelope
        names: list[str] = []
        errors: dict[str, BaseException] = {}
        for sender in senders:
            try:
                result = _send_or_hold(envelope, sender)
            except Exception as error:  # noqa: BLE001 - one sender's failure must not keep the message from the others
                errors[sender.name] = error
            else:
                names.append(sender.name)
                sent = sent.with_(*result.stamps[len(envelope.stamps) :])
        if errors:
            raise SendFailedError(names, errors)
        return sent


def _send_or_hold(envelope: Envelope, sender: Transport) -> Envelope:
    for stamp in envelope.stamps:
        if type(stamp) is TransactionStamp:
            return _send_within(envelope, sender, stamp)
    unit = current_unit.get()
    if unit is not None and unit.hold(sender, sender.encode(envelope)):
        return envelope.with_(HeldStamp(sender.name))
    return sender.send(envelope)


def _send_within(envelope: Envelope, sender: Transport, stamp: TransactionStamp) -> Envelope:
    """Make the message part of the caller's transaction. Raises SendRefused where it cannot be."""
    from bus.transports.sql.callers_transaction import CallersTransaction

    transaction = CallersTransaction(stamp.session)
    if not sender.send_within(transaction, (sender.encode(envelope),)):
        raise SendRefused(
            f'The transport "{sender.name}" is not in the database of this transaction ({transaction.database}), nor '
            'is its outbox; name one with "outbox:", the connection of that database'
        )
    return envelope.with_(HeldStamp(sender.name))
