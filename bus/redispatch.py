"""A message that carries another one to transports: for what may only dispatch, such as a schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bus.envelope import Envelope
from bus.stamps import HandledStamp, NonSendableStamp, TransportNamesStamp


@dataclass(frozen=True, slots=True)
class RedispatchMessage:
    """Dispatch ``envelope``, a message or an envelope, to these transports, whatever the routing says.

    Without a transport it is handled here. What another process could not know, such as where the message was received
    from, is left behind; its id stays. Every bus handles it, where it is dispatched, on itself.
    """

    envelope: object
    transport_names: tuple[str, ...]

    def __init__(self, envelope: object, transport_names: str | Sequence[str] = ()) -> None:
        names = (transport_names,) if isinstance(transport_names, str) else tuple(transport_names)
        object.__setattr__(self, "envelope", envelope)
        object.__setattr__(self, "transport_names", names)


class RedispatchHandler:
    """Handles RedispatchMessage with the ``dispatch`` of its bus."""

    def __init__(self, dispatch: Callable[[Envelope], Envelope]) -> None:
        self._dispatch = dispatch

    def __call__(self, message: RedispatchMessage) -> object:
        """Dispatch the message inside; return the last result where it was handled here."""
        envelope = Envelope.wrap(message.envelope)
        travels = tuple(stamp for stamp in envelope.stamps if not isinstance(stamp, NonSendableStamp))
        sent = self._dispatch(Envelope(envelope.message, (*travels, TransportNamesStamp(message.transport_names))))
        handled = sent.last(HandledStamp)
        return handled.result if handled is not None else None
