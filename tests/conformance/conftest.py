import pytest

pytest.register_assert_rewrite("bus.testing.conformance")
