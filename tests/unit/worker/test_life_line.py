from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from bus import signals
from bus.attempt import RunningMessage
from bus.envelope import Envelope
from bus.events import Events, MessageReceived, WorkerIdle, WorkerStarted
from bus.life_line import LifeLine, Order, Progress, Report
from bus.signals import stop_on_signals


class RecordingWorker:
    def __init__(self) -> None:
        self.events = Events()
        self.calls: list[str] = []

    def stop(self, reason: str) -> None:
        self.calls.append(f"stop: {reason}")

    def running(self) -> list[RunningMessage]:
        return []

    def give_back(self) -> None:
        pass

    def give_up(self) -> None:
        self.calls.append("give up")


class Wire:
    """A life-line with both ends in this process."""

    def __init__(self) -> None:
        self.supervisor, theirs = socket.socketpair()
        self.supervisor.settimeout(5.0)
        self.line = LifeLine(theirs.detach())
        self.worker = RecordingWorker()

    def order(self, order: Order) -> None:
        self.supervisor.sendall(bytes((order,)))

    def reports(self, count: int) -> list[Report]:
        received = b""
        while received.count(b"\n") < count:
            received += self.supervisor.recv(4096)
        return [Report.decode(line) for line in received.splitlines()]


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    monkeypatch.setattr(LifeLine, "of_this_process", None)
    exits: list[str] = []
    monkeypatch.setattr("bus.life_line.os._exit", lambda code: exits.append(f"exit {code}"))
    wire = Wire()
    wire.worker.calls = exits
    yield wire
    wire.supervisor.close()
    for thread in threading.enumerate():
        if thread.name == "bus-life-line":
            thread.join(5.0)
    wire.line._socket.close()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_an_order_stops_the_worker(wire, eventually):
    with stop_on_signals(wire.worker, life_line=wire.line) as watch:
        assert not watch.stopping
        wire.order(Order.STOP)
        eventually(lambda: wire.worker.calls)

    assert wire.worker.calls == ["stop: the supervisor asks for it"]
    assert watch.stopping


def test_a_supervisor_that_is_gone_stops_the_worker(wire, eventually):
    with stop_on_signals(wire.worker, life_line=wire.line):
        wire.supervisor.close()
        eventually(lambda: wire.worker.calls)

    assert wire.worker.calls == ["stop: the supervisor is gone"]


def test_an_order_and_a_signal_count_as_one(wire, eventually, monkeypatch):
    monkeypatch.setattr(signals, "_SECOND_SIGNAL_AFTER", 0.01)
    with stop_on_signals(wire.worker, life_line=wire.line):
        wire.order(Order.STOP)
        eventually(lambda: wire.worker.calls)
        threading.Event().wait(0.05)
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(0.05)
        assert len(wire.worker.calls) == 1
        os.kill(os.getpid(), signal.SIGTERM)
        eventually(lambda: len(wire.worker.calls) >= 3)

    assert wire.worker.calls == ["stop: the supervisor asks for it", "give up", "exit 6"]


def test_the_order_to_leave_gives_the_running_messages_up(wire, eventually):
    with stop_on_signals(wire.worker, life_line=wire.line):
        wire.order(Order.STOP)
        wire.order(Order.LEAVE)
        eventually(lambda: "exit 6" in wire.worker.calls)

    # Here the exit returns, and what comes after it does not count.
    calls = wire.worker.calls
    assert calls[calls.index("exit 6") - 1] == "give up"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_a_terminal_sends_to_all_is_left_to_the_supervisor(wire, number):
    with stop_on_signals(wire.worker, life_line=wire.line):
        os.kill(os.getpid(), number)
        threading.Event().wait(0.05)
        signal.signal(number, signal.SIG_DFL)
        wire.worker.events.emit(WorkerIdle())
        os.kill(os.getpid(), number)
        threading.Event().wait(0.05)

    assert wire.worker.calls == []


def test_who_has_begun_nothing_leaves_at_once(wire, eventually):
    wire.order(Order.STOP)

    eventually(lambda: wire.worker.calls)
    assert wire.worker.calls[0] == "exit 0"


def test_the_supervisor_hears_of_the_start_and_once_of_the_first_contact(wire):
    wire.line.accompany(wire.worker.events)
    wire.worker.events.emit(WorkerStarted(("async",)))
    wire.worker.events.emit(MessageReceived(Envelope("message")))
    wire.worker.events.emit(WorkerIdle())
    wire.line.report(Progress.FINISHED)

    said = [each.progress for each in wire.reports(3)]
    assert said == [Progress.STARTED, Progress.READY, Progress.FINISHED]


@pytest.mark.parametrize("progress", [Progress.REFUSED, Progress.FAILED])
def test_the_supervisor_hears_why_a_process_ends(wire, progress):
    if progress is Progress.FAILED:
        wire.line.accompany(wire.worker.events)
        wire.worker.events.emit(WorkerIdle())
        wire.reports(1)
    wire.line.report_error(3, "two\nlines")

    assert wire.reports(1) == [Report(progress, 3, "two\nlines")]


def test_a_child_that_a_handler_forked_says_nothing(wire, monkeypatch):
    monkeypatch.setattr("bus.life_line.os.getpid", lambda: 1)
    wire.line.report(Progress.FINISHED)
    wire.supervisor.settimeout(0.05)

    with pytest.raises(TimeoutError):
        wire.supervisor.recv(1)


def test_the_order_to_show_stacks_prints_those_of_all_threads(wire, capsys, eventually):
    wire.order(Order.SHOW_STACKS)

    shown: list[str] = []
    eventually(lambda: shown.append(capsys.readouterr().err) or 'Thread "MainThread"' in "".join(shown))
    assert wire.worker.calls == []


def test_a_report_to_a_supervisor_that_is_gone_is_no_error(wire, eventually):
    wire.line.obey_with(lambda order, reason: wire.worker.calls.append(reason))
    wire.supervisor.close()
    eventually(lambda: wire.worker.calls)

    wire.line.report(Progress.FINISHED)
