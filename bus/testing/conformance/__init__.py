"""The suite that every driver passes before it is called a transport.

Subclass DriverConformance, say what the driver can do, and override one fixture::

    class TestMyDriver(DriverConformance):
        features = Features(priorities=False)

        @pytest.fixture
        def open_driver(self, clock):
            drivers = []
            def open_driver(queue="orders"):
                drivers.append(MyDriver(...))
                return drivers[-1]
            yield open_driver
            for driver in drivers:
                driver.close()

Some features need further fixtures, which Features names. Each test gets an empty store. Time is the FakeClock
``clock`` for a driver that tells due times itself; with a server that does, the tests wait, at most 5 s, for delays of
at most 300 ms.
"""

from bus.testing.conformance.capabilities import Capabilities
from bus.testing.conformance.encoding import Encoding
from bus.testing.conformance.features import PASSWORD, Features, OpenDriver, OpenSubscriber
from bus.testing.conformance.giving_back import GivingBack
from bus.testing.conformance.outages import Outages
from bus.testing.conformance.receiving import Receiving
from bus.testing.conformance.sending import Sending
from bus.testing.conformance.settling import Settling


class DriverConformance(Sending, Encoding, Receiving, Settling, GivingBack, Capabilities, Outages):
    """The promises of bus.transports.base.Driver, one test each."""


__all__ = ["PASSWORD", "DriverConformance", "Features", "OpenDriver", "OpenSubscriber"]
