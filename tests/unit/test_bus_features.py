"""What a configuration adds: arguments of middleware, aliases, and where a handler's messages come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bus import Envelope, Messenger, MessengerConfig, RetryPolicy, TransportConfig, WorkerOptions, handler, message
from bus.errors import ConfigurationError
from bus.stamps import BusNameStamp, SentToFailureTransportStamp, TransportNamesStamp

TRACE: list[str] = []


@pytest.fixture(autouse=True)
def _fresh_trace() -> Iterator[None]:
    TRACE.clear()
    yield
    TRACE.clear()


@message("features.placed")
@dataclass(frozen=True)
class Placed:
    id: str


class Tenant:
    """A middleware with arguments."""

    def __init__(self, name: str, *, strict: bool = False) -> None:
        self._text = f"{name} {strict}"

    def __call__(self, envelope: Envelope, call_next: Any) -> Envelope:
        TRACE.append(self._text)
        return call_next(envelope)


def tenant_factory(prefix: str, suffix: str) -> Tenant:
    return Tenant(prefix + suffix)


def on_placed(event: Placed) -> None:
    TRACE.append(event.id)


def from_yaml(tmp_path: Path, text: str) -> Messenger:
    file = tmp_path / "messenger.yaml"
    file.write_text(text)
    from bus.config.loader import load

    return Messenger(load(file, environment={}), handlers=[on_placed])


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (f"'{__name__}:Tenant': ['acme']", "acme False"),
        (f"'{__name__}:Tenant': {{name: acme, strict: true}}", "acme True"),
        (f"id: '{__name__}:tenant_factory'\n            arguments: [ac, me]", "acme False"),
        ("app.tenant: {name: acme}", "acme False"),
    ],
)
def test_middleware_takes_positional_and_named_arguments_from_yaml(tmp_path: Path, entry: str, said: str) -> None:
    messenger = from_yaml(
        tmp_path,
        f"""
messenger:
  aliases: {{app.tenant: '{__name__}:Tenant'}}
  buses:
    main:
      middleware:
        -   {entry}
""",
    )

    messenger.bus.dispatch(Placed("o-1"))

    assert [said, "o-1"] == TRACE


def test_an_argument_that_the_middleware_does_not_have_is_named_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"messenger\.yaml:.*Tenant.*unexpected keyword argument 'nmae'"):
        from_yaml(tmp_path, f"messenger: {{buses: {{main: {{middleware: [{{'{__name__}:Tenant': {{nmae: a}}}}]}}}}}}")


def test_an_alias_is_a_further_name_of_a_message_in_routing_and_on_the_wire(tmp_path: Path) -> None:
    messenger = from_yaml(
        tmp_path,
        r"""
messenger:
  aliases: {'App\Placed': features.placed}
  transports: {queue: 'in-memory://'}
  routing: {features.placed: queue}
""",
    )
    messenger.bus.dispatch(Placed("o-1"))
    (received,) = messenger.transports["queue"].get(1)

    assert received.message == Placed("o-1")
    assert messenger.types.by_name("App\\Placed") is Placed


def test_a_message_from_the_failure_transport_reaches_the_handlers_of_where_it_failed() -> None:
    failing = [True]

    @handler(from_transport="orders")
    def of_orders(event: Placed, name: BusNameStamp) -> None:
        TRACE.append(f"orders {event.id}")
        if failing[0]:
            raise ValueError("not yet")

    @handler(from_transport="failed")
    def of_failed(event: Placed) -> None:
        TRACE.append("never")

    config = MessengerConfig(
        failure_transport="failed",
        transports={
            "orders": TransportConfig(dsn="in-memory://", retry=RetryPolicy(max_retries=0)),
            "failed": TransportConfig(dsn="in-memory://"),
        },
    )
    messenger = Messenger(config, handlers=[of_orders, of_failed])
    messenger.bus.dispatch(Placed("o-1"), [TransportNamesStamp("orders")])
    messenger.worker(["orders"], WorkerOptions(stop_when_empty=True)).run()
    (stored,) = messenger.transports["failed"].peek(10)
    assert stored.last(SentToFailureTransportStamp) == SentToFailureTransportStamp("orders")

    failing[0] = False
    messenger.worker(["failed"], WorkerOptions(stop_when_empty=True)).run()

    assert TRACE == ["orders o-1", "orders o-1"]
    assert messenger.transports["failed"].peek(10) == []
