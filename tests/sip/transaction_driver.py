"""Drives one transaction of ours and its second description side by side."""

from __future__ import annotations

from impfed.sip.message import response_bytes
from impfed.sip.transaction import Action, ClientTransaction, ServerTransaction, Transactions
from impfed.sip.transaction_tables import State
from tests.sip.transaction_kit import Wire, outgoing, rendered, request, response, told
from tests.sip.transaction_model import Model

OURS = {
    State.CALLING: "calling",
    State.CANCEL_WAITING: "waiting",
    State.CANCELLING: "cancelling",
    State.TRYING: "trying",
    State.PROCEEDING: "proceeding",
    State.COMPLETED: "completed",
    State.CONFIRMED: "confirmed",
    State.ACCEPTED: "accepted",
    State.ACKNOWLEDGED: "acked",
    State.TERMINATED: "terminated",
}


class Driver:
    """One pair; ``do`` lets an event happen to both and compares what is seen.

    Subclasses name their events and make them happen.
    """

    machine = ""
    events: tuple[str, ...] = ()

    def __init__(self, reliable: bool) -> None:
        self.now = 1000.0
        self.layer = Transactions()
        self.wire = Wire(reliable)
        self.tx: ClientTransaction | ServerTransaction = self.begin()
        self.model = Model(self.machine, reliable, self.now)
        self.compare_states()

    def begin(self) -> ClientTransaction | ServerTransaction:
        raise NotImplementedError

    def happen(self, event: str) -> tuple[list[Action], list[str]]:
        """Return what ours did and what the model would see."""
        raise NotImplementedError

    def do(self, event: str) -> None:
        """Let one event happen; ``timer`` is the next timer."""
        if event == "timer":
            self.next_timer()
        else:
            actions, expected = self.happen(event)
            self.compare(actions, expected)
        self.compare_states()

    def words(self, actions: list[Action]) -> list[str]:
        return [word.replace(" ", "-") for word in told(actions)]

    def compare(self, actions: list[Action], expected: list[str]) -> None:
        words = self.words(actions)
        assert words == expected, f"{words} instead of {expected}"

    def compare_states(self) -> None:
        state = OURS[self.tx.state]
        assert state == self.model.state, f"{state} instead of {self.model.state}"

    def model_does(self, event: str) -> list[str]:
        return self.model.happen(event, self.now)

    def next_timer(self) -> None:
        """Go to the next timer of the model; nothing may happen before it."""
        due = self.model.next()
        if due is None:
            return
        assert self.layer.handle_timers(due[0] - 0.001) == []
        self.now = due[0]
        expected: list[str] = []
        while due is not None and due[0] <= self.now:
            expected += self.model_does(due[1])
            due = self.model.next()
        self.compare(self.layer.handle_timers(self.now), expected)

    def wait(self, share: float) -> None:
        """Let a share of the time until the next timer pass: nothing may happen."""
        due = self.model.next()
        if due is not None:
            now = self.now + (due[0] - self.now) * share
            if now < due[0]:
                self.now = now
                assert self.layer.handle_timers(now) == []

    def drain(self) -> None:
        """Let all time pass: nothing may be left but an INVITE that waits for an answer."""
        while self.model.next() is not None:
            self.do("timer")
        assert self.layer.handle_timers(self.now + 100) == []  # a CANCEL ends without a word
        assert self.layer.next_timer is None
        if self.model.state not in ("proceeding",):
            assert self.model.state == "terminated"
            assert len(self.layer) == 0
            assert not (self.layer._merging or self.layer._accepted)


class ClientDriver(Driver):
    machine = "client"
    method = "MESSAGE"
    events = ("1xx", "2xx", "486", "error", "cancel", "timer")
    statuses = {"1xx": 180, "2xx": 200, "486": 486}

    def begin(self) -> ClientTransaction:
        message = outgoing(self.method)
        self.data = rendered(message, "z9hG4bKours")
        transaction, actions = self.layer.send_request(
            self.data, message, "z9hG4bKours", self.wire, self.wire.reliable, self.now, None
        )
        assert told(actions) == ["send " + self.method]
        return transaction

    def words(self, actions: list[Action]) -> list[str]:
        return ["up" if word.startswith("response") else word for word in super().words(actions)]

    def happen(self, event: str) -> tuple[list[Action], list[str]]:
        assert isinstance(self.tx, ClientTransaction)
        if event == "error":
            return self.layer.transport_failed(self.tx, self.now, "gone"), self.model_does(event)
        if event == "cancel":
            return self.layer.cancel(self.tx, self.now), self.model_does(event)
        return self.receive(self.statuses[event], "a", event)

    def receive(self, status: int, tag: str, event: str) -> tuple[list[Action], list[str]]:
        answer = response(self.data, status, tag, ";received=192.0.2.1;ms-received-port=4000")
        actions = self.layer.receive_response(answer, self.wire, self.now)
        if self.model.state == "terminated":
            return actions, [f"stray-{status}"]
        return actions, self.model_does(event)


class InviteClientDriver(ClientDriver):
    machine = "invite_client"
    method = "INVITE"
    events = ("1xx", "2xx", "2xx other", "ack", "486", "error", "cancel", "timer")

    def begin(self) -> ClientTransaction:
        self.delivered: set[str] = set()
        self.acknowledged: set[str] = set()
        return super().begin()

    def compare(self, actions: list[Action], expected: list[str]) -> None:
        super().compare(actions, expected)
        if "send-CANCEL" in expected:
            # Its own transaction is not what is tested here: answer it at once.
            cancel = next(a.data for a in actions if told([a]) == ["send CANCEL"])  # type: ignore[union-attr]
            assert self.layer.receive_response(response(cancel, 200), self.wire, self.now) == []

    def happen(self, event: str) -> tuple[list[Action], list[str]]:
        if event == "2xx other":
            return self.receive(200, "b", "2xx")
        if event == "ack":
            return self.acknowledge()
        return super().happen(event)

    def receive(self, status: int, tag: str, event: str) -> tuple[list[Action], list[str]]:
        actions, expected = super().receive(status, tag, event)
        if event != "2xx" or not expected or expected[0].startswith("stray"):
            return actions, expected
        if tag in self.acknowledged:
            expected = ["send-ACK"]
        elif tag in self.delivered:
            expected = []
        else:
            expected = ["up"]
        self.delivered.add(tag)
        return actions, expected

    def acknowledge(self) -> tuple[list[Action], list[str]]:
        assert isinstance(self.tx, ClientTransaction)
        if "a" not in self.delivered:
            return [], []
        self.acknowledged.add("a")
        data = b"ACK sip:romeo@lync.example SIP/2.0\r\n\r\n"
        return self.layer.acknowledge(self.tx, "a", data, self.wire, self.now), ["send-ACK"]


class ServerDriver(Driver):
    machine = "server"
    method = "MESSAGE"
    events = ("again", "tu100", "tu200", "tu486", "error", "timer")

    def begin(self) -> ServerTransaction:
        self.last = ""
        self.request = request(self.method)
        actions = self.layer.receive_request(self.request, self.wire, self.now)
        assert told(actions) == ["request " + self.method]
        return actions[0].transaction  # type: ignore[union-attr,return-value]

    def compare(self, actions: list[Action], expected: list[str]) -> None:
        if expected == ["again"]:
            expected = [self.last] if self.last else []
        super().compare(actions, expected)

    def happen(self, event: str) -> tuple[list[Action], list[str]]:
        assert isinstance(self.tx, ServerTransaction)
        if event == "error":
            return self.layer.transport_failed(self.tx, self.now, "gone"), self.model_does(event)
        if event == "again":
            if self.model.state == "terminated":
                return [], []  # it would be a new transaction
            actions = self.layer.receive_request(request(self.method), self.wire, self.now)
            return actions, self.model_does(self.method)
        data = response_bytes(self.request, int(event[2:]), to_tag="us")
        expected = self.model_does(event)
        if expected:
            self.last = "send-" + event[2:]
        return self.layer.respond(self.tx, int(event[2:]), data, self.now), expected

    def model_does(self, event: str) -> list[str]:
        expected = super().model_does(event)
        if event == "100":
            self.last = "send-100"
        return expected


class InviteServerDriver(ServerDriver):
    machine = "invite_server"
    method = "INVITE"
    events = ("again", "ACK", "CANCEL", "tu180", "tu200", "tu486", "error", "timer")

    def begin(self) -> ServerTransaction:
        self.cancels = 0
        return super().begin()

    def happen(self, event: str) -> tuple[list[Action], list[str]]:
        if event not in ("ACK", "CANCEL"):
            return super().happen(event)
        if self.model.state == "terminated":
            return [], []
        if event == "CANCEL":
            self.cancels += 1
            # Each CANCEL with a branch of its own would be a stranger; they differ in sent-by only
            # in the test that looks at that.  Here a repeated one has its answer repeated.
            actions = self.layer.receive_request(request("CANCEL"), self.wire, self.now)
            expected = self.model_does("CANCEL")
            if not self.wire.reliable and self.cancels > 1 and "CANCEL" in expected:
                expected = ["send-200"]
            return actions, expected
        two_xx = self.model.state in ("accepted", "acked")
        ack = request("ACK", branch="z9hG4bKother" if two_xx else "z9hG4bKone", to_tag="us")
        return self.layer.receive_request(ack, self.wire, self.now), self.model_does("ACK")


DRIVERS: tuple[type[Driver], ...] = (
    ClientDriver,
    InviteClientDriver,
    ServerDriver,
    InviteServerDriver,
)
