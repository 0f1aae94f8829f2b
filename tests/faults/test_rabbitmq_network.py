"""The network between the bus and RabbitMQ resets, stalls, cuts and swallows: nothing is lost, and work goes on."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import cycle

import pytest

from tests.faults.deployment import hold_for
from tests.faults.figures import Figures
from tests.faults.rabbitmq_deployment import RabbitDeployment
from tests.faults.sizes import CUTS, RESETS, STALL_SECONDS, SWALLOWS
from tests.faults.test_rabbitmq_broker import MESSAGES_PER_FAULT, check
from tests.faults.waiting import PATIENCE
from tests.servers.proxy import Direction, Proxy

OnRabbitMq = Callable[..., RabbitDeployment]


@pytest.mark.parametrize("resets", RESETS)
def test_resets_of_all_connections_lose_nothing(
    resets: int, proxy: Proxy, on_rabbitmq: OnRabbitMq, figures: Figures
) -> None:
    deployment = on_rabbitmq(proxy.port)
    load = deployment.under_load(resets, resets * MESSAGES_PER_FAULT, proxy.reset)
    check(deployment, load, figures, "R6 resets before RabbitMQ", resets)


@pytest.mark.parametrize("seconds", STALL_SECONDS)
def test_a_stall_of_all_connections_loses_nothing(
    seconds: float, proxy: Proxy, on_rabbitmq: OnRabbitMq, figures: Figures
) -> None:
    """Whoever waits for a confirmation meanwhile gives up in time; the worker notices by the missing heartbeats."""
    deployment = on_rabbitmq(proxy.port, heartbeat=2)

    def stall() -> None:
        with proxy.stalled():
            hold_for(seconds)

    load = deployment.under_load(1, MESSAGES_PER_FAULT, stall)
    check(deployment, load, figures, f"R6 stall of {seconds:g} s before RabbitMQ", 1)


@pytest.mark.parametrize("cuts", CUTS)
def test_connections_cut_in_the_midst_of_a_frame_lose_nothing(
    cuts: int, proxy: Proxy, on_rabbitmq: OnRabbitMq, figures: Figures
) -> None:
    deployment = on_rabbitmq(proxy.port)
    chance = random.Random(figures.seed)
    directions = cycle(Direction)

    def cut() -> None:
        assert proxy.cut_after(chance.randint(1, 2_000), next(directions)).wait(PATIENCE)

    load = deployment.under_load(cuts, cuts * MESSAGES_PER_FAULT // 3, cut)
    check(deployment, load, figures, "R6 cuts mid-frame before RabbitMQ", cuts)


@pytest.mark.parametrize("times", SWALLOWS)
@pytest.mark.parametrize("direction", Direction)
def test_what_the_network_swallows_is_not_lost(
    direction: Direction, times: int, proxy: Proxy, on_rabbitmq: OnRabbitMq, figures: Figures
) -> None:
    """Confirmations and deliveries vanish, or messages and acknowledgements; and then the connections."""
    deployment = on_rabbitmq(proxy.port)

    def swallow() -> None:
        with proxy.swallowing(direction):
            hold_for(1.0)

    load = deployment.under_load(times, times * MESSAGES_PER_FAULT, swallow)
    check(deployment, load, figures, f"R6 swallowed {direction.value}, RabbitMQ", times)
