"""How much each test of the faults does: what ``scripts/test`` runs, and what ``scripts/test --full`` adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

# Seconds for one test. A mark on the test itself would win over these.
_QUICK = 600
_FULL = 4 * 3600


def sizes(quick: Any, full: Any) -> list[Any]:
    """Return the two sizes of a test as pytest's parameters."""
    return [
        pytest.param(quick, id="quick", marks=pytest.mark.timeout(_QUICK)),
        pytest.param(full, id="full", marks=[pytest.mark.full, pytest.mark.timeout(_FULL)]),
    ]


@dataclass(frozen=True)
class Kills:
    kills: int
    messages: int


@dataclass(frozen=True)
class Delays:
    messages: int
    longest: float  # seconds
    restarts: int


RANDOM_KILLS = sizes(Kills(20, 2_000), Kills(200, 50_000))
EXACTLY_ONCE_ROUNDS = sizes(1, 12)
EXACTLY_ONCE_KILLS = sizes(Kills(3, 100), Kills(100, 5_000))
STEP_ROUNDS = sizes(3, 12)
REDIS_WORKER_KILLS = sizes(Kills(6, 500), Kills(200, 50_000))
REDIS_KILLS = sizes(Kills(3, 600), Kills(30, 100_000))
REDIS_CLIENT_KILLS = sizes(Kills(4, 400), Kills(60, 20_000))
REDIS_LOST_REPLIES = sizes(Kills(3, 300), Kills(40, 10_000))
REDIS_ORDERED = sizes(480, 16_000)  # messages of 16 keys
ORDERED = sizes(1_600, 16_000)  # messages of 16 keys
GIVE_BACKS = sizes(20, 100)
FUZZED_SLICES = sizes(1, 50)  # of 20,000 generated messages each
FULL_DISK_SECONDS = sizes(3.0, 30.0)
LOCKED_SECONDS = sizes(8.0, 60.0)
OPEN_TRANSACTION_SECONDS = sizes(7.0, 20.0)
FAILURE_TRANSPORT_LOCKED_SECONDS = sizes(10.0, 60.0)
FAILURE_TRANSPORT_AWAY_SECONDS = sizes(4.0, 60.0)
CLAIMING_PROCESSES = sizes(8, 16)
LONG_HANDLER_SECONDS = sizes(16.0, 60.0)
DELAYED = sizes(Delays(500, 6.0, 2), Delays(10_000, 120.0, 10))
SIGNAL_REPETITIONS = [1, *(pytest.param(each, marks=pytest.mark.full) for each in range(2, 21))]
QUEUE_TYPES = ["classic", pytest.param("quorum", marks=pytest.mark.full)]
BROKER_KILLS = sizes(Kills(3, 5_000), Kills(30, 100_000))
BROKER_STOPS = sizes(1, 10)
CLOSED_CONNECTIONS = sizes(3, 30)  # times, every 2 s
MEMORY_ALARM_SECONDS = sizes(10.0, 60.0)
RESETS = sizes(4, 40)
STALL_SECONDS = sizes(12.0, 60.0)
CUTS = sizes(12, 200)
SWALLOWS = sizes(2, 20)
