"""What the shop does about it."""

import bus
from bus import handler
from examples.shop import books, payments
from examples.shop.messages import OrderPaid, OrderPlaced


@handler
def reserve_stock(event: OrderPlaced) -> None:
    books.append("reservations", event.order_id, articles={line.article: line.quantity for line in event.lines})


@handler
def take_payment(event: OrderPlaced) -> None:
    payments.charge(event.payment, event.order_id, event.total)
    books.append("payments", event.order_id, provider=event.payment, amount=str(event.total))
    # Belongs to this call: it leaves when this handler has succeeded, and not otherwise.
    bus.dispatch(OrderPaid(event.order_id, event.customer, event.total))


@handler
def write_receipt(event: OrderPaid) -> None:
    books.append("receipts", event.order_id, customer=event.customer, amount=str(event.total))
