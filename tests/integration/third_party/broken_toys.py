"""Toy transports with one defect each, for which the suite has to fail. Run by naming the tests."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import toy_transport
from test_toy_transport import TestToyTransport
from toy_transport import ToyDriver

from bus.testing.conformance import Features
from bus.transports.base import Ack, Claim, Outgoing, Requeue, Settlement

settle = ToyDriver.settle
_settle = ToyDriver._settle
_columns = ToyDriver._columns


class Broken(TestToyTransport):
    """A toy with a method of its own."""

    method: str
    features = Features(outlives_process=True, subscribers=True, restarts=True, returns_within=0.5)

    @pytest.fixture(autouse=True)
    def _break(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ToyDriver, self.method, getattr(type(self), f"broken_{self.method.removeprefix('_')}"))


class TestAckDoesNothing(Broken):
    method = "settle"

    def broken_settle(self: Any, batch: Sequence[Settlement]) -> Sequence[Claim]:
        return settle(self, [each for each in batch if not isinstance(each, Ack)])


class TestSettlesWhatIsSomebodyElses(Broken):
    method = "_settle"

    def broken_settle(self: Any, server: sqlite3.Connection, settlement: Settlement, token: str) -> int:
        server.execute("UPDATE message SET token = ? WHERE id = ?", (token, settlement.claim.transport_id))
        return _settle(self, server, settlement, token)


class TestRequeuesToEverySubscriber(Broken):
    method = "_settle"

    def broken_settle(self: Any, server: sqlite3.Connection, settlement: Settlement, token: str) -> int:
        if isinstance(settlement, Requeue):
            again = settlement.outgoing
            self._send(server, Outgoing(again.message_id, again.body, again.headers, again.delay_ms))
            settlement = Ack(settlement.claim)
        return _settle(self, server, settlement, token)


class TestForgetsTheMessagesOfTheDead(Broken):
    method = "_release_those_of_the_dead"

    def broken_release_those_of_the_dead(self: Any, server: sqlite3.Connection) -> None: ...


class TestKnowsNoDelays(Broken):
    method = "_columns"

    def broken_columns(self: Any, outgoing: Outgoing) -> tuple[object, ...]:
        return (*_columns(self, outgoing)[:3], self._clock.now())


class TestKnowsNoPriorities(Broken):
    method = "_columns"

    def broken_columns(self: Any, outgoing: Outgoing) -> tuple[object, ...]:
        body, headers, _, due = _columns(self, outgoing)
        return body, headers, 0, due


class TestKeepsWhatItHeld(Broken):
    method = "close"

    def broken_close(self: Any) -> None: ...


class TestLosesMessagesAtARestart(TestToyTransport):
    features = Features(restarts=True, returns_within=0.5)

    @pytest.fixture
    def restart_server(self, server: Path) -> Callable[[], None]:
        def restart() -> None:
            toy_transport.restart(str(server))
            with sqlite3.connect(server) as connection:
                connection.execute("DELETE FROM message")
            connection.close()

        return restart
