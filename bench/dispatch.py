"""What one dispatch to one handler in the same process costs: the bus with its whole default stack, and its peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import blinker
import celery
import dramatiq
import lato
from dramatiq.brokers.stub import StubBroker

import bus
from bench.rounds import Cost, alternate, cost_of, repeated, report, table

ROUNDS = 7
CALLS = 5_000

handled = 0


@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    quantity: int


class LatoOrderPlaced(lato.Event):
    order_id: str
    quantity: int


@bus.handler
def count(event: OrderPlaced) -> None:
    global handled  # noqa: PLW0603 - the least that a handler can do and still prove that it ran
    handled += 1


def plain_call() -> Callable[[], Cost]:
    return repeated(lambda: count(OrderPlaced("o-1", 1)), CALLS)


def bus_dispatch() -> Callable[[], Cost]:
    dispatch = bus.Messenger(bus.MessengerConfig()).bus.dispatch
    return repeated(lambda: dispatch(OrderPlaced("o-1", 1)), CALLS)


def blinker_signal() -> Callable[[], Cost]:
    placed = blinker.Signal()
    placed.connect(count)
    return repeated(lambda: placed.send(OrderPlaced("o-1", 1)), CALLS)


def lato_publish() -> Callable[[], Cost]:
    application = lato.Application("shop")

    @application.handler(LatoOrderPlaced)
    def _(event: LatoOrderPlaced) -> None:
        count(OrderPlaced(event.order_id, event.quantity))

    return repeated(lambda: application.publish(LatoOrderPlaced(order_id="o-1", quantity=1)), CALLS)


def celery_eager() -> Callable[[], Cost]:
    app = celery.Celery("shop")
    app.conf.task_always_eager = True

    @app.task
    def place(order_id: str, quantity: int) -> None:
        count(OrderPlaced(order_id, quantity))

    return repeated(lambda: place.delay("o-1", 1), CALLS // 10)


def dramatiq_stub() -> Callable[[], Cost]:
    """Send through the stub broker and let one worker thread handle: dramatiq's way to run without a server."""
    times = CALLS // 5

    def contestant() -> Cost:
        broker = StubBroker()

        @dramatiq.actor(broker=broker)
        def place(order_id: str, quantity: int) -> None:
            count(OrderPlaced(order_id, quantity))

        worker = dramatiq.Worker(broker, worker_threads=1)
        worker.start()

        def work() -> None:
            for _ in range(times):
                place.send("o-1", 1)
            broker.join(place.queue_name)
            worker.join()

        cost = cost_of(work, times)
        worker.stop()
        return cost

    return contestant


def main() -> None:
    contestants = {
        "a plain call": plain_call(),
        "bus.dispatch": bus_dispatch(),
        "blinker, Signal.send": blinker_signal(),
        "lato, Application.publish": lato_publish(),
        "celery, always eager": celery_eager(),
        "dramatiq, StubBroker and one worker thread": dramatiq_stub(),
    }
    figures = alternate(contestants, ROUNDS)
    if handled == 0:
        raise SystemExit("No handler ran; these figures mean nothing.")
    ours = figures["bus.dispatch"].wall
    rows = [[name, f"{each.wall:.2f}", each.spread, f"{each.wall / ours:.2f}"] for name, each in figures.items()]
    text = (
        "A message object is made, dispatched to one handler in the same process, and handled. "
        f"Median of {ROUNDS} alternating rounds.\n\n"
        + table(["", "µs per message", "spread", "times bus.dispatch"], rows)
    )
    report("dispatch", "Dispatch to one handler", text, ["blinker", "lato", "celery", "dramatiq"])


if __name__ == "__main__":
    main()
