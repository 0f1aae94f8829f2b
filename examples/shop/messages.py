"""What happens in the shop."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from bus import message


@dataclass(frozen=True)
class OrderLine:
    """One article of an order."""

    article: str
    quantity: int
    price: Decimal


@message("order.placed")
@dataclass(frozen=True)
class OrderPlaced:
    """A customer has placed an order."""

    order_id: str
    placed_at: datetime
    customer: str
    lines: tuple[OrderLine, ...]
    total: Decimal
    payment: str


@message("order.paid")
@dataclass(frozen=True)
class OrderPaid:
    """The payment provider has confirmed the payment of an order."""

    order_id: str
    customer: str
    total: Decimal
