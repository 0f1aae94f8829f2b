"""A consumer that claims messages and is killed: python -m bus.testing.conformance.consumer DSN."""

from __future__ import annotations

import sys

from bus.testing.conformance.traffic import receive
from bus.transports.registry import DriverContext, create_driver


def main(dsn: str) -> None:
    """Claim the five messages that are there, begin one, print its body, and wait for the end."""
    driver = create_driver("orders", dsn, {}, DriverContext())
    first, *_ = receive(driver, 5, within=30)
    first.claim.begin()
    sys.stdout.write(f"{first.body.decode()}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
