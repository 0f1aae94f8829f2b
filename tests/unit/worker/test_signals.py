from __future__ import annotations

import logging
import os
import signal
import threading

import pytest

from bus import signals
from bus.attempt import RunningMessage
from bus.envelope import Envelope
from bus.events import Events, MessageSettled, WorkerIdle
from bus.signals import EXIT_GRACE_EXCEEDED, stop_on_signals

SETTLED = MessageSettled(Envelope("message"), "async", "handled")


class RecordingWorker:
    def __init__(self) -> None:
        self.events = Events()
        self.calls: list[str] = []
        self.gave_back = threading.Event()

    def stop(self, reason: str) -> None:
        self.calls.append(f"stop: {reason}")

    def running(self) -> list[RunningMessage]:
        return [RunningMessage("id-1", "shop.OrderPlaced", "async", 0, 31.5)]

    def give_back(self) -> None:
        self.gave_back.set()

    def give_up(self) -> None:
        self.calls.append("give up")


@pytest.fixture
def worker(monkeypatch) -> RecordingWorker:
    recording = RecordingWorker()
    monkeypatch.setattr("bus.signals.os._exit", lambda code: recording.calls.append(f"exit {code}"))
    return recording


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_signal_stops_the_worker(worker, eventually, number):
    with stop_on_signals(worker):
        send(number)
        eventually(lambda: worker.calls)

    assert worker.calls == [f"stop: {number.name} received"]


def test_what_is_not_begun_is_given_back_while_the_main_thread_still_handles_a_message(worker):
    with stop_on_signals(worker):
        send(signal.SIGTERM)

        assert worker.gave_back.wait(10)


def test_the_signal_handlers_that_were_there_before_come_back(worker):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    with stop_on_signals(worker):
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] != before

    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_signal_that_comes_twice_at_once_counts_once(worker, eventually):
    with stop_on_signals(worker):
        send(signal.SIGTERM)
        send(signal.SIGINT)
        eventually(lambda: worker.calls)
        threading.Event().wait(0.05)

    assert len(worker.calls) == 1


def test_a_second_signal_later_ends_the_process(worker, eventually, monkeypatch):
    monkeypatch.setattr(signals, "_SECOND_SIGNAL_AFTER", 0.02)
    with stop_on_signals(worker):
        send(signal.SIGINT)
        eventually(lambda: worker.calls)
        threading.Event().wait(0.05)
        send(signal.SIGINT)
        eventually(lambda: len(worker.calls) >= 3)

    assert worker.calls == ["stop: SIGINT received", "give up", f"exit {EXIT_GRACE_EXCEEDED}"]


def test_when_the_grace_is_over_the_claims_are_given_up_and_the_process_ends(worker, eventually, caplog):
    with stop_on_signals(worker, 0.05):
        send(signal.SIGTERM)
        eventually(lambda: len(worker.calls) >= 3)

    assert worker.calls == ["stop: SIGTERM received", "give up", "exit 6"]
    errors = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    assert errors == [
        "The worker ends now: handlers are still running after 0.05 s; 1 messages are given back",
        'Message "id-1" (shop.OrderPlaced) from "async" has been handled for 31.5 s and is not finished',
    ]


def test_output_that_hangs_keeps_the_process_neither_from_stopping_nor_from_ending(worker, eventually, monkeypatch):
    monkeypatch.setattr(signals, "_ACT_DEADLINE", 0.05)
    monkeypatch.setattr(signals.logger, "info", lambda *arguments: never.wait(30))
    monkeypatch.setattr(signals.logger, "error", lambda *arguments, **more: never.wait(30))
    never = threading.Event()
    with stop_on_signals(worker, 0.05):
        send(signal.SIGTERM)
        eventually(lambda: len(worker.calls) >= 3)
    never.set()

    assert worker.calls == ["stop: SIGTERM received", "give up", "exit 6"]


def test_sigusr1_prints_the_stack_of_every_thread_by_name(worker, eventually, capsys):
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait, args=(30,), name="a-handler")
    thread.start()
    printed = ""

    def was_printed() -> bool:
        nonlocal printed
        printed += capsys.readouterr().err
        return 'Thread "a-handler":' in printed and 'Thread "MainThread":' in printed

    with stop_on_signals(worker):
        send(signal.SIGUSR1)
        eventually(was_printed)
    go_on.set()
    thread.join()

    assert worker.calls == []


@pytest.mark.parametrize("event", [SETTLED, WorkerIdle()], ids=["busy", "idle"])
def test_a_handler_that_has_the_signal_ignored_is_overruled_after_its_message(worker, eventually, event):
    with stop_on_signals(worker):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        worker.events.emit(event)
        send(signal.SIGTERM)
        eventually(lambda: worker.calls)

    assert worker.calls == ["stop: SIGTERM received"]


def test_a_handler_that_takes_the_wakeup_fd_away_does_not_deafen_the_worker(worker, eventually):
    with stop_on_signals(worker):
        signal.set_wakeup_fd(-1)
        send(signal.SIGTERM)
        eventually(lambda: worker.calls)

    assert worker.calls == ["stop: SIGTERM received"]


def test_what_happens_in_another_thread_leaves_the_signals_alone(worker):
    with stop_on_signals(worker):
        thread = threading.Thread(target=worker.events.emit, args=(SETTLED,))
        thread.start()
        thread.join()


def test_outside_the_main_thread_it_says_that_signals_do_nothing(worker, caplog):
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def use() -> None:
        with caplog.at_level(logging.INFO), stop_on_signals(worker):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()

    assert seen == [before]
    assert "Signals do not stop this worker: it is not in the main thread" in caplog.text


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_signal_to_a_child_that_a_handler_forked_is_not_one_to_the_worker(worker):
    with stop_on_signals(worker):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)  # should the other signal not end it
            os.write(writing, b"x")
            while True:
                signal.pause()
        os.read(reading, 1)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        threading.Event().wait(0.05)

    assert os.WTERMSIG(status) == signal.SIGTERM
    assert worker.calls == []


def test_the_worker_forgets_the_signals_when_the_block_ends(worker):
    with stop_on_signals(worker):
        pass

    assert worker.events._listeners[MessageSettled] == ()
    assert [each.name for each in threading.enumerate() if each.name == "bus-signals"] == []
