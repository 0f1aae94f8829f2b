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
from bench.plot import bars
from bench.report import Run, table
from bench.rounds import Cost, alternate, cost_of, repeated

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


def plain_call(calls: int) -> Callable[[], Cost]:
    return repeated(lambda: count(OrderPlaced("o-1", 1)), calls)


def bus_dispatch(calls: int) -> Callable[[], Cost]:
    dispatch = bus.Messenger(bus.MessengerConfig(imports=("bench.dispatch",))).bus.dispatch
    return repeated(lambda: dispatch(OrderPlaced("o-1", 1)), calls)


def blinker_signal(calls: int) -> Callable[[], Cost]:
    placed = blinker.Signal()
    placed.connect(count)
    return repeated(lambda: placed.send(OrderPlaced("o-1", 1)), calls)


def lato_publish(calls: int) -> Callable[[], Cost]:
    application = lato.Application("shop")

    @application.handler(LatoOrderPlaced)
    def _(event: LatoOrderPlaced) -> None:
        count(OrderPlaced(event.order_id, event.quantity))

    return repeated(lambda: application.publish(LatoOrderPlaced(order_id="o-1", quantity=1)), calls)


def celery_eager(calls: int) -> Callable[[], Cost]:
    app = celery.Celery("shop")
    app.conf.task_always_eager = True

    @app.task
    def place(order_id: str, quantity: int) -> None:
        count(OrderPlaced(order_id, quantity))

    return repeated(lambda: place.delay("o-1", 1), calls)


def dramatiq_stub(calls: int) -> Callable[[], Cost]:
    """Send through the stub broker and let one worker thread handle: dramatiq's way to run without a server."""

    def contestant() -> Cost:
        broker = StubBroker()

        @dramatiq.actor(broker=broker)
        def place(order_id: str, quantity: int) -> None:
            count(OrderPlaced(order_id, quantity))

        worker = dramatiq.Worker(broker, worker_threads=1)
        worker.start()

        def work() -> None:
            for _ in range(calls):
                place.send("o-1", 1)
            broker.join(place.queue_name)
            worker.join()

        cost = cost_of(work, calls)
        worker.stop()
        return cost

    return contestant


def main() -> None:
    run = Run.from_command_line("dispatch", "What one dispatch to one handler in the same process costs.")
    rounds, calls = run.size(9, 1), run.size(10_000, 50)
    contestants = {
        "a plain call": plain_call(calls),
        "bus.dispatch": bus_dispatch(calls),
        "blinker, Signal.send": blinker_signal(calls),
        "lato, Application.publish": lato_publish(calls),
        "celery, always eager": celery_eager(calls // 10),
        "dramatiq, StubBroker and one worker thread": dramatiq_stub(calls // 10),
    }
    figures = alternate(contestants, rounds)
    if handled == 0:
        raise SystemExit("No handler ran; these figures mean nothing.")
    ours = figures["bus.dispatch"].wall
    rows = [[name, f"{each.wall:.2f}", each.spread, f"{each.wall / ours:.2f}"] for name, each in figures.items()]
    bars(run.plot, {name: each.wall for name, each in figures.items()}, "µs per message", ["bus.dispatch"])
    run.report(
        "Dispatch to one handler",
        "A message object is made, dispatched to one handler in the same process through the whole default stack, and "
        f"handled. Median of {rounds} alternating rounds.\n\n"
        + table(["", "µs per message", "spread", "times bus.dispatch"], rows),
        ["blinker", "lato", "celery", "dramatiq"],
    )


if __name__ == "__main__":
    main()
