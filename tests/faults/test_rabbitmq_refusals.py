"""RabbitMQ cannot or will not take a message: the error belongs to that message, and comes in time."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from bus import AmqpStamp, SendRefused
from tests.faults.application import Job
from tests.faults.ledger import DONE
from tests.faults.rabbitmq_deployment import DEADLINE, ON_A_LOADED_MACHINE, RabbitDeployment
from tests.faults.waiting import wait_until

OnRabbitMq = Callable[..., RabbitDeployment]


def test_an_unroutable_message_is_refused_and_the_next_one_is_not(on_rabbitmq: OnRabbitMq) -> None:
    deployment = on_rabbitmq(exchange={"name": "jobs", "type": "direct"}, queues={"jobs": {"binding_keys": ["known"]}})
    bus = deployment.messenger.bus
    with pytest.raises(SendRefused, match='exchange "jobs", routing key "unknown"'):
        bus.dispatch(Job(1), [AmqpStamp("unknown")])
    bus.dispatch(Job(2), [AmqpStamp("known")])

    deployment.drain()
    assert deployment.journal.effects() == {2: 1}


def test_a_full_queue_refuses_messages_and_takes_them_again_when_there_is_room(on_rabbitmq: OnRabbitMq) -> None:
    room = 5
    deployment = on_rabbitmq(queues={"jobs": {"arguments": {"x-max-length": room, "x-overflow": "reject-publish"}}})
    bus = deployment.messenger.bus
    taken, refused = [], []
    for number in range(3 * room):
        started = time.monotonic()
        try:
            bus.dispatch(Job(number))
            taken.append(number)
        except SendRefused as error:
            refused.append(str(error))
        assert time.monotonic() - started < DEADLINE + ON_A_LOADED_MACHINE
    assert refused, "the queue takes more than it has room for"
    assert all("is full" in each for each in refused)

    deployment.drain()
    bus.dispatch(Job(100))
    deployment.drain()

    assert deployment.journal.effects() == dict.fromkeys((*taken, 100), 1)


def test_a_queue_that_is_deleted_under_a_worker_is_declared_and_consumed_again(on_rabbitmq: OnRabbitMq) -> None:
    deployment = on_rabbitmq()
    deployment.publish([Job(1)])
    worker = deployment.worker()
    deployment.wait_for(DONE, 1)
    wait_until(deployment.is_empty, "the message is acknowledged", every=0.05)

    deployment.broker.ctl("delete_queue", "--vhost", deployment.vhost, "jobs")
    wait_until(lambda: "jobs" in deployment.broker.queues(deployment.vhost), "the queue is there again")
    deployment.publish([Job(2)])
    deployment.wait_for(DONE, 2)
    worker.stop()


def test_a_queue_that_is_deleted_before_a_dispatch_is_declared_again(on_rabbitmq: OnRabbitMq) -> None:
    deployment = on_rabbitmq()
    deployment.publish([Job(1)])
    deployment.broker.ctl("delete_queue", "--vhost", deployment.vhost, "jobs")

    deployment.publish([Job(2)])

    deployment.drain()
    assert deployment.journal.effects() == {2: 1}
