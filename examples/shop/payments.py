"""A stand-in for the payment providers of the shop, with the troubles that real ones have."""

import os
from decimal import Decimal

from examples.shop import books


class ProviderTimeoutError(Exception):
    """The provider did not answer in time."""


class KeyWithdrawnError(Exception):
    """The provider does not accept our key any more."""


def charge(provider: str, order_id: str, amount: Decimal) -> None:
    """Take a payment.

    ``slowpay`` answers only when it is asked for the third time. ``northpay`` has withdrawn our key: it rejects
    everything until ``$NORTHPAY_KEY`` holds the new one.
    """
    if provider == "slowpay" and _ask(order_id) < 3:
        raise ProviderTimeoutError(f"slowpay did not confirm {amount} EUR for {order_id} in time")
    if provider == "northpay" and "NORTHPAY_KEY" not in os.environ:
        raise KeyWithdrawnError(f"northpay rejects {order_id}: the key of this shop has been withdrawn")


def _ask(order_id: str) -> int:
    """Return how often the provider was asked about this order, this time included."""
    asked = books.folder() / "slowpay"
    asked.mkdir(exist_ok=True)
    with (asked / order_id).open("ab") as file:
        file.write(b".")
        return file.tell()
