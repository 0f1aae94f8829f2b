"""Where messages wait until they are due: queues whose messages expire together, and then go on.

A queue holds one length of delay, so that a long one never holds back a short one. None of them expires itself: a
message can never vanish with its queue. How many there can be is bounded by rounding the lengths.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bus.transports.amqp.topology import (
    AT_LEAST_ONCE,
    Arguments,
    Bind,
    Declaration,
    DeclareExchange,
    DeclareQueue,
    ExchangeType,
)

_HOPS_FROM: Final = 100_000  # milliseconds; shorter delays are waited for at once
# RabbitMQ takes a TTL below 2**32 ms.
LONGEST_HOP: Final = 2**32 - 1

# How long messages wait that are retried by the default policy, or postponed. Where they are counted, these are asked
# for: RabbitMQ does not tell which queues there are.
USUAL_WAITS: Final = (
    *(900, 950, 1000, 1050, 1100),
    *(1800, 1900, 2000, 2100, 2200),
    *(3600, 3800, 4000, 4200, 4400),
    *(8000, 16000, 30000),
)


@dataclass(frozen=True, slots=True)
class DelayQueue:
    """A place where messages wait for ``milliseconds``.

    They are published to ``exchange`` with ``key``, None being their own key. Then they go to the exchange ``target``,
    or to the queue ``target_queue``.
    """

    name: str
    milliseconds: int
    target: str
    target_queue: str | None

    @property
    def exchange(self) -> str:
        """The exchange that leads there."""
        return "" if self.target_queue is not None else self.name

    def declarations(self, *, at_least_once: bool) -> Iterator[Declaration]:
        """Yield what has to be there; ``at_least_once`` where the server can keep a message until the next has it."""
        arguments: Arguments = {"x-message-ttl": self.milliseconds, "x-dead-letter-exchange": self.target}
        if self.target_queue is not None:
            arguments = {**arguments, "x-dead-letter-routing-key": self.target_queue}
        if at_least_once:
            arguments = {"x-queue-type": "quorum", **AT_LEAST_ONCE, **arguments}
        yield DeclareQueue(self.name, arguments=arguments)
        if self.target_queue is None:
            yield DeclareExchange(self.name, ExchangeType.FANOUT)
            yield Bind(self.name, self.name)


def retry_queue(queue: str, milliseconds: int) -> DelayQueue:
    """Return where messages wait that go to one queue, whoever else is subscribed."""
    return DelayQueue(f"{queue}.retry.{milliseconds}ms", milliseconds, "", queue)


def delay_queue(exchange: str, milliseconds: int) -> DelayQueue:
    """Return where messages wait that go to an exchange, with their own routing key."""
    return DelayQueue(f"{exchange}.delay.{milliseconds}ms", milliseconds, exchange, None)


def first_hop(delay_ms: int) -> tuple[int, int]:
    """Return the length of the first wait, and what is left to wait behind it.

    Below 100 s there is one wait, of three digits. From 100 s up two digits are waited for, and then the rest, which
    whoever receives the message puts back for.
    """
    if delay_ms < _HOPS_FROM:
        return rounded_up(delay_ms, 3), 0
    hop = _rounded_down(min(delay_ms, LONGEST_HOP), 2)
    return hop, delay_ms - hop


def next_hop(rest_ms: int) -> tuple[int, int]:
    """Return the same for a rest, which has two digits, for rests have any length."""
    if rest_ms < _HOPS_FROM:
        return rounded_up(rest_ms, 2), 0
    return first_hop(rest_ms)


def rounded_up(number: int, digits: int) -> int:
    """Return the next number with so many digits that are not 0, never a smaller one."""
    step: int = 10 ** max(0, len(str(number)) - digits)
    return -(-number // step) * step


def _rounded_down(number: int, digits: int) -> int:
    step: int = 10 ** max(0, len(str(number)) - digits)
    return number // step * step
