"""The four transactions against a second description of them, under any order of events."""

from __future__ import annotations

from itertools import product

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from twisted.trial import unittest

from tests.sip.transaction_driver import (
    ClientDriver,
    Driver,
    InviteClientDriver,
    InviteServerDriver,
    ServerDriver,
)

SETTINGS = settings(max_examples=40, stateful_step_count=25, deadline=None)


class AnyOrder(RuleBasedStateMachine):
    """Lets hypothesis choose what happens, and how much time passes in between."""

    kind: type[Driver]

    @initialize(reliable=st.booleans())
    def start(self, reliable: bool) -> None:
        self.driver = self.kind(reliable)

    @rule(number=st.integers(0, 99))
    def event(self, number: int) -> None:
        events = self.driver.events
        self.driver.do(events[number % len(events)])

    @rule()
    def timer(self) -> None:
        self.driver.do("timer")

    @rule(share=st.floats(0.01, 0.99))
    def wait(self, share: float) -> None:
        self.driver.wait(share)

    def teardown(self) -> None:
        if hasattr(self, "driver"):
            self.driver.drain()


def any_order(kind: type[Driver]) -> None:
    machine = type("AnyOrderOf" + kind.__name__, (AnyOrder,), {"kind": kind})
    run_state_machine_as_test(machine, settings=SETTINGS)


def every_order(kind: type[Driver], length: int = 3) -> None:
    """Try every sequence of so many events and then all the timers, over both sorts of transport."""
    for reliable in (False, True):
        for events in product(kind.events, repeat=length):
            driver = kind(reliable)
            try:
                for event in events:
                    driver.do(event)
                driver.drain()
            except Exception as error:
                raise AssertionError(f"reliable={reliable} {events}: {error}") from error


class MachineTests(unittest.SynchronousTestCase):
    """Each of our tables behaves as the second description, whatever happens in whatever order."""

    def test_client(self) -> None:
        """A transaction other than INVITE of ours keeps to figure 6."""
        every_order(ClientDriver)
        any_order(ClientDriver)

    def test_invite_client(self) -> None:
        """An INVITE of ours keeps to figure 5, RFC 6026 and the rules of CANCEL."""
        every_order(InviteClientDriver)
        any_order(InviteClientDriver)

    def test_server(self) -> None:
        """A request other than INVITE is answered as in figure 8."""
        every_order(ServerDriver)
        any_order(ServerDriver)

    def test_invite_server(self) -> None:
        """An INVITE is answered as in figure 7 with RFC 6026, its 2xx repeated until the ACK."""
        every_order(InviteServerDriver)
        any_order(InviteServerDriver)
