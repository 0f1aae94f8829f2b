"""Workers and RabbitMQ die, stop and hang up on each other under load: nothing is lost, and work goes on by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from bus import ErrorDetailsStamp
from tests.faults.application import Job, mixed_job
from tests.faults.deployment import hold_for
from tests.faults.figures import Figures
from tests.faults.ledger import BEGUN
from tests.faults.rabbitmq_deployment import DEADLINE, ON_A_LOADED_MACHINE, RECOVERY, Load, RabbitDeployment
from tests.faults.sizes import (
    BROKER_KILLS,
    BROKER_STOPS,
    CLOSED_CONNECTIONS,
    MEMORY_ALARM_SECONDS,
    QUEUE_TYPES,
    RANDOM_KILLS,
    Kills,
)
from tests.faults.test_sigkill import publish_one_after_the_other, refused, work_on
from tests.faults.waiting import wait_until
from tests.servers.rabbitmq import RabbitMq

OnRabbitMq = Callable[..., RabbitDeployment]
MESSAGES_PER_FAULT = 200
WINDOW = 100  # what a worker may hold unsettled, at most


def check(deployment: RabbitDeployment, load: Load, figures: Figures, name: str, faults: int) -> None:
    totals = deployment.totals()
    figures.add(
        name,
        totals,
        faults=faults,
        bound=load.bound,
        slowest_dispatch=load.slowest_dispatch,
        recovered_after=load.slowest_recovery,
    )
    assert totals.lost == totals.unexpected == 0
    assert totals.repeats <= load.bound
    assert load.slowest_dispatch < DEADLINE + ON_A_LOADED_MACHINE
    assert load.slowest_recovery < RECOVERY
    condemned = {
        job.number: envelope.last(ErrorDetailsStamp)
        for envelope in deployment.failed_envelopes()
        if isinstance(job := envelope.message, Job) and job.does != "refuse"
    }
    # Each fault counts as a delivery of what was in flight. Who is hit by three of them is taken for a killer.
    assert len(condemned) <= faults // 3, condemned


@pytest.mark.parametrize("queue_type", QUEUE_TYPES)
@pytest.mark.parametrize("size", RANDOM_KILLS)
def test_workers_killed_at_random_under_load_lose_nothing(
    queue_type: str, size: Kills, on_rabbitmq: OnRabbitMq, figures: Figures
) -> None:
    deployment = on_rabbitmq(queue_type=queue_type)
    jobs = [mixed_job(number) for number in range(size.messages)]
    publisher = threading.Thread(target=publish_one_after_the_other, args=(deployment, jobs), name="publisher")
    arguments = [("--fetch-size", "10"), ("--fetch-size", "10", "--concurrency", "4")]
    in_flight = [1 + 10, 4 + 10]
    workers = [deployment.worker(*each) for each in arguments]
    publisher.start()
    bound = sum(in_flight)
    try:
        for kill in range(size.kills):
            work_on(deployment, size.messages // size.kills // 2)
            victim = kill % len(workers)
            workers[victim].kill()
            bound += in_flight[victim]
            workers[victim] = deployment.worker(*arguments[victim])
    finally:
        publisher.join()
    deployment.wait_until_empty(within=600)
    for worker in workers:
        worker.wait_for_line("Worker started")
        worker.stop()

    totals = deployment.totals()
    figures.add(f"R1 random SIGKILL on RabbitMQ, {queue_type} queue", totals, kills=size.kills, bound=bound)
    assert totals.acknowledged == size.messages
    assert totals.lost == totals.unexpected == 0
    assert totals.repeats <= bound
    assert set(deployment.failed()) == set(refused(jobs)), "an innocent message was condemned"


@pytest.mark.parametrize("queue_type", QUEUE_TYPES)
@pytest.mark.parametrize("size", BROKER_KILLS)
def test_a_broker_that_is_killed_under_load_loses_nothing(
    queue_type: str, size: Kills, broker: RabbitMq, on_rabbitmq: OnRabbitMq, figures: Figures
) -> None:
    deployment = on_rabbitmq(queue_type=queue_type)

    def kill_and_start() -> None:
        broker.kill()
        broker.start()

    load = deployment.under_load(size.kills, size.messages, kill_and_start, pause=0.002)
    check(deployment, load, figures, f"R2 SIGKILL of RabbitMQ, {queue_type} queue", size.kills)


@pytest.mark.parametrize("stops", BROKER_STOPS)
def test_a_broker_that_is_stopped_under_load_loses_nothing(
    stops: int, broker: RabbitMq, on_rabbitmq: OnRabbitMq, figures: Figures
) -> None:
    deployment = on_rabbitmq()

    def stop_and_start() -> None:
        broker.stop_app()
        broker.start_app()

    load = deployment.under_load(stops, stops * MESSAGES_PER_FAULT, stop_and_start)
    check(deployment, load, figures, "2.10 stop_app of RabbitMQ", stops)


@pytest.mark.parametrize("times", CLOSED_CONNECTIONS)
def test_a_broker_that_closes_all_connections_every_two_seconds_loses_nothing(
    times: int, broker: RabbitMq, on_rabbitmq: OnRabbitMq, figures: Figures
) -> None:
    deployment = on_rabbitmq()
    closed: list[int] = []

    def close_and_wait() -> None:
        closed.append(broker.close_all_connections())
        hold_for(2.0)

    load = deployment.under_load(times, times * MESSAGES_PER_FAULT, close_and_wait)
    assert all(closed), "there were none to close"
    check(deployment, load, figures, "2.9 close_all_connections of RabbitMQ", times)


@pytest.mark.parametrize("seconds", MEMORY_ALARM_SECONDS)
def test_failing_messages_wait_for_the_end_of_a_memory_alarm_and_others_are_handled(
    seconds: float, broker: RabbitMq, on_rabbitmq: OnRabbitMq, figures: Figures
) -> None:
    """Retries cannot be published meanwhile: they stay unsettled, so that even a killed worker loses none."""
    deployment = on_rabbitmq()
    failing, fine = range(20), range(20, 120)
    deployment.publish(Job(number, "fail", 2) for number in failing)
    deployment.publish(Job(number) for number in fine)
    with broker.memory_alarm():
        worker = deployment.worker("--concurrency", "4")
        deployment.wait_for(BEGUN, within=60)
        hold_for(seconds)
        assert worker.alive, worker.output
        assert deployment.broker.messages(deployment.vhost) >= len(failing), "what failed is still there"
        worker.kill()
    successor = deployment.worker("--concurrency", "4")
    recovered = wait_until(deployment.is_empty, "all are handled", within=60, every=0.05)
    successor.wait_for_line("Worker started")
    successor.stop()

    totals = deployment.totals()
    figures.add("R15 memory alarm of RabbitMQ", totals, seconds=seconds, recovered_after=recovered)
    assert totals.lost == 0
    assert totals.repeats <= WINDOW, "what the killed worker had done, and not yet acknowledged behind the retries"
    assert deployment.failed() == []
    assert recovered < RECOVERY
    assert deployment.journal.effects().keys() == {*failing, *fine}
