"""Messages that a test looks at, with assertions that say what was there instead."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NoReturn, TypeVar, overload

from bus.envelope import Envelope

T = TypeVar("T")

_MOST_SHOWN: Final = 20
_repr = reprlib.Repr()
_repr.maxother = _repr.maxstring = 200


class Envelopes(Sequence[Envelope]):
    """Envelopes in the order in which something happened to them; their stamps tell more.

    What is expected of a message is its class, or a message that it has to equal. ``where`` is a condition on it.
    Where the list goes on growing, as that of what was dispatched does, each question sees it as it is then.
    """

    def __init__(self, what: str, envelopes: Sequence[Envelope]) -> None:
        """Wrap envelopes; ``what`` tells what happened to them, as in 'sent to "async"'."""
        self._what = what
        self._envelopes = envelopes

    @overload
    def messages(self) -> list[Any]: ...

    @overload
    def messages(self, kind: type[T]) -> list[T]: ...

    def messages(self, kind: type[Any] = object) -> list[Any]:
        """Return the messages themselves, or those of one class."""
        return [each.message for each in self._envelopes if isinstance(each.message, kind)]

    @overload
    def assert_contains(
        self, expected: type[T], where: Callable[[T], bool] | None = None, *, times: int | None = None
    ) -> Envelope: ...

    @overload
    def assert_contains(
        self, expected: T, where: Callable[[T], bool] | None = None, *, times: int | None = None
    ) -> Envelope: ...

    def assert_contains(
        self, expected: object, where: Callable[[Any], bool] | None = None, *, times: int | None = None
    ) -> Envelope:
        """Check that such a message is here, exactly ``times`` times where that is given; return the first envelope.

        Raises:
            AssertionError: with the messages that are here.
        """
        __tracebackhide__ = True
        if times is not None and times < 1:
            raise ValueError(f"times is {times}; assert_lacks checks that there is no such message")
        found = self._matching(expected, where)
        if not found or (times is not None and len(found) != times):
            wanted = "at least once" if times is None else _times(times)
            self._fail(
                f"{_described(expected, where)} should have been {self._what} {wanted}, not {_times(len(found))}"
            )
        return found[0]

    @overload
    def assert_lacks(self, expected: type[T], where: Callable[[T], bool] | None = None) -> None: ...

    @overload
    def assert_lacks(self, expected: T, where: Callable[[T], bool] | None = None) -> None: ...

    def assert_lacks(self, expected: object, where: Callable[[Any], bool] | None = None) -> None:
        """Check that there is no such message.

        Raises:
            AssertionError: with the messages that are here.
        """
        __tracebackhide__ = True
        if found := self._matching(expected, where):
            times = _times(len(found))
            self._fail(f"{_described(expected, where)} should not have been {self._what}, but was, {times}")

    def assert_exactly(self, *expected: object) -> None:
        """Check that these messages are here, in this order, and no others.

        Raises:
            AssertionError: with the messages that are here.
        """
        __tracebackhide__ = True
        present = list(self._envelopes)
        if len(present) != len(expected) or not all(map(_matches, present, expected)):
            wanted = ", ".join(_described(each) for each in expected) or "nothing"
            self._fail(f"exactly {wanted} should have been {self._what}")

    def assert_empty(self) -> None:
        """Check that there is no message at all.

        Raises:
            AssertionError: with the messages that are here.
        """
        __tracebackhide__ = True
        self.assert_exactly()

    @overload
    def __getitem__(self, index: int) -> Envelope: ...

    @overload
    def __getitem__(self, index: slice) -> Envelopes: ...

    def __getitem__(self, index: int | slice) -> Envelope | Envelopes:
        if isinstance(index, slice):
            return Envelopes(self._what, self._envelopes[index])
        return self._envelopes[index]

    def __len__(self) -> int:
        return len(self._envelopes)

    def __iter__(self) -> Iterator[Envelope]:
        return iter(list(self._envelopes))

    def __repr__(self) -> str:
        return f"<Envelopes {self._what}: {[each.message for each in self._envelopes]!r}>"

    def _matching(self, expected: object, where: Callable[[Any], bool] | None) -> list[Envelope]:
        return [each for each in self._envelopes if _matches(each, expected) and (where is None or where(each.message))]

    def _fail(self, problem: str) -> NoReturn:
        __tracebackhide__ = True
        shown = [f"  {number}. {_repr.repr(each.message)}" for number, each in enumerate(self._envelopes, 1)]
        if len(shown) > _MOST_SHOWN:
            shown[_MOST_SHOWN:] = [f"  ... and {len(shown) - _MOST_SHOWN} more"]
        there = f"what was {self._what}:" if shown else f"nothing was {self._what}"
        raise AssertionError("\n".join([f"{problem}; {there}", *shown]))


def _matches(envelope: Envelope, expected: object) -> bool:
    if isinstance(expected, type):
        return isinstance(envelope.message, expected)
    return bool(envelope.message == expected)


def _described(expected: object, where: Callable[[Any], bool] | None = None) -> str:
    name = expected.__qualname__ if isinstance(expected, type) else _repr.repr(expected)
    return f"{name} that meets the condition" if where is not None else name


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")
