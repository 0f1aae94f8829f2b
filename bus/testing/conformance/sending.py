"""What is sent arrives as it was sent, and when it is due."""

# ruff: noqa: D102 - the name of a test is its sentence

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from bus import headers
from bus.testing.clock import FakeClock
from bus.testing.conformance.features import DriverSuite, requires
from bus.testing.conformance.traffic import DELAY, bodies, outgoing, receive
from bus.transports.base import (
    Driver,
    Sent,
)


class Sending(DriverSuite):
    """Round trips and delays."""

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b'{"a": 1}', id="json"),
            pytest.param("Übermäßig 你好 😀".encode(), id="unicode"),
            pytest.param(b"line\r\nline\n\n", id="newlines"),
            pytest.param(bytes(range(256)), id="every byte"),
            pytest.param(b"a\0b", id="nul"),
            pytest.param("\ud800".encode("utf-8", "surrogatepass"), id="surrogate"),
            pytest.param(b"eyJhIjoxfQ==", id="looks like base64"),
            pytest.param(b"x" * 1024 * 1024, id="1 MiB"),
        ],
    )
    def test_a_body_arrives_byte_for_byte(self, driver: Driver, body: bytes) -> None:
        driver.send([outgoing(body)])

        assert bodies(receive(driver, 1)) == [body]

    @pytest.mark.parametrize(
        "sent",
        [
            {},
            {headers.TYPE: "shop.OrderPlaced", headers.CONTENT_TYPE: headers.JSON},
            {headers.TYPE: "App\\Message\\OrderPlaced", headers.STAMP_PREFIX + "A\\B": '[{"busName": "x"}]'},
            {headers.TYPE: "Übermäßig 你好 😀", "quoted": '"\\"', "lines": "a\r\nb", "empty": ""},
            {"long": "x" * 20_000},
        ],
        ids=["none", "plain", "php", "unicode", "long"],
    )
    def test_headers_arrive_as_they_were_sent(self, driver: Driver, sent: dict[str, str]) -> None:
        driver.send([outgoing(headers=sent)])

        assert dict(receive(driver, 1)[0].headers) == sent

    def test_a_batch_has_one_result_per_message_in_order(self, driver: Driver) -> None:
        batch = [outgoing(str(number).encode()) for number in range(50)]

        results = driver.send(batch)

        assert all(isinstance(result, Sent) for result in results)
        assert len(results) == 50

    def test_sending_nothing_does_nothing(self, driver: Driver) -> None:
        assert list(driver.send([])) == []
        assert list(driver.get(10)) == []

    def test_the_id_after_sending_is_the_id_after_receiving(self, driver: Driver) -> None:
        (sent,) = driver.send([outgoing()])

        assert isinstance(sent, Sent)
        if sent.transport_id is not None:
            assert receive(driver, 1)[0].claim.transport_id == sent.transport_id

    def test_a_fresh_message_was_delivered_once_and_knows_its_origin(self, driver: Driver) -> None:
        driver.send([outgoing()])

        claim = receive(driver, 1)[0].claim

        assert claim.deliveries == 1
        assert claim.origin == "orders"

    def test_many_threads_may_send_at_once(self, driver: Driver) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: driver.send([outgoing(str(number).encode())]), range(80)))

        assert sorted(bodies(receive(driver, 80))) == sorted(str(number).encode() for number in range(80))

    def test_a_delayed_message_is_not_visible_before_its_time(self, driver: Driver, clock: FakeClock) -> None:
        driver.send([outgoing(b"later", delay_ms=DELAY)])

        assert list(driver.get(10)) == []
        clock.advance(DELAY / 1000 - 0.01)
        if driver.get(10):
            pytest.fail("it came 10 ms too early")
        clock.advance(0.011)
        assert bodies(receive(driver, 1)) == [b"later"]

    def test_a_delayed_message_does_not_hold_up_one_that_is_not(self, driver: Driver) -> None:
        driver.send([outgoing(b"later", delay_ms=60_000), outgoing(b"now")])

        assert bodies(receive(driver, 1)) == [b"now"]

    def test_a_long_delay_does_not_hold_up_a_short_one(self, driver: Driver, clock: FakeClock) -> None:
        driver.send([outgoing(b"long", delay_ms=60_000), outgoing(b"short", delay_ms=DELAY)])

        clock.advance(DELAY / 1000)

        assert bodies(receive(driver, 1)) == [b"short"]

    @requires("ordered")
    def test_delayed_messages_come_in_the_order_in_which_they_become_due(
        self, driver: Driver, clock: FakeClock
    ) -> None:
        driver.send(
            [outgoing(b"third", delay_ms=300), outgoing(b"first", delay_ms=100), outgoing(b"second", delay_ms=200)]
        )

        clock.advance(0.3)

        assert bodies(receive(driver, 3, limit=1)) == [b"first", b"second", b"third"]

    @pytest.mark.parametrize("delay", [0, -1, -(2**63)])
    def test_a_delay_of_nothing_or_less_is_none(self, driver: Driver, delay: int) -> None:
        driver.send([outgoing(b"now", delay_ms=delay)])

        assert bodies(receive(driver, 1)) == [b"now"]

    def test_a_delay_beyond_every_calendar_is_kept(self, driver: Driver, clock: FakeClock) -> None:
        driver.send([outgoing(b"never", delay_ms=2**62)])

        clock.advance(30 * 24 * 3600)

        assert list(driver.get(10)) == []
