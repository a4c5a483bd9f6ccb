"""What the demo shows, step by step. A step passes only when its effect was seen at the far end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .ladder import Ladder
from .parts import PartFailed, Talker

ROMEO = "romeo@lync.example"
ALICE = "alice@home.example"
CAROL = "carol@home.example"


@dataclass
class Cast:
    """Who plays: the far side with its users, and two XMPP users."""

    far: Talker
    alice: Talker
    carol: Talker
    ladder: Ladder

    def far_does(self, do: str, wanted: int, **details: str) -> None:
        """Let a far user do something; its answer must have the wanted status."""
        since = self.far.position
        number = self.far.send(do, **details)
        done = self.far.expect(since, 60, event="done", id=number)
        if done["status"] != wanted:
            raise PartFailed(f"{do}: {wanted} expected, got {done['status']} {done['reason']}")


@dataclass(frozen=True)
class Step:
    """One step: a title, what to do, what it proved."""

    title: str
    play: Callable[[Cast], str]


def alice_watches_romeo(cast: Cast) -> str:
    since = cast.alice.position
    cast.alice.send("subscribe", to=ROMEO)
    cast.far.expect(event="watcher", sender=ALICE, to=ROMEO)
    cast.alice.expect(since, event="presence", sender=ROMEO, kind="subscribed")
    cast.alice.expect(since, event="presence", sender=ROMEO, kind="available", show="")
    return "alice subscribed to romeo over SIP and sees him available"


def romeo_is_busy(cast: Cast) -> str:
    since = cast.alice.position
    cast.far_does("presence", 200, **{"from": "romeo", "state": "busy"})
    cast.alice.expect(since, event="presence", sender=ROMEO, show="away", status="Busy")
    since = cast.alice.position
    cast.far_does("presence", 200, **{"from": "romeo", "state": "offline"})
    cast.alice.expect(since, event="presence", sender=ROMEO, kind="unavailable")
    since = cast.alice.position
    cast.far_does("presence", 200, **{"from": "romeo", "state": "available"})
    cast.alice.expect(since, event="presence", sender=ROMEO, kind="available", show="")
    return 'Busy arrived as away with the text "Busy", then offline, then available'


def romeo_watches_alice(cast: Cast) -> str:
    since, seen = cast.alice.position, cast.far.position
    cast.far_does("subscribe", 200, **{"from": "romeo", "to": ALICE})
    cast.far.expect(seen, event="presence", sender=ALICE, subscription="pending")
    cast.alice.expect(since, event="asked", sender=ROMEO)
    seen = cast.far.position
    cast.alice.send("approve", to=ROMEO)
    cast.far.expect(seen, event="presence", sender=ALICE, subscription="active", state="available")
    return "pending until alice said yes, then romeo sees her available"


def alice_changes(cast: Cast) -> str:
    for show, state in (("dnd", "busy"), ("xa", "away"), ("", "available")):
        seen = cast.far.position
        cast.alice.send("presence", show=show)
        cast.far.expect(seen, event="presence", sender=ALICE, state=state)
    return "do not disturb arrived as busy, extended away as away, then available again"


def refresh(cast: Cast) -> str:
    seen = cast.far.position
    cast.far_does("refresh", 200, **{"from": "romeo", "to": ALICE})
    cast.far.expect(seen, event="presence", sender=ALICE, subscription="active")
    return "the refresh was answered with 200 and a full NOTIFY"


def message_inwards(cast: Cast) -> str:
    since = cast.alice.position
    text = "But soft, what light – ça va? 😀"
    cast.far_does("im", 200, **{"from": "romeo", "to": ALICE, "text": text})
    second = "It is the east, and Juliet is the sun"
    cast.far_does("im", 200, **{"from": "romeo", "to": ALICE, "text": second})
    cast.alice.expect(since, event="message", body=second)
    bodies = [event["body"] for event in cast.alice.seen(since, event="message")]
    if bodies != [text, second]:
        raise PartFailed(f"alice got {bodies}")
    return "both texts arrived once each, though the first also rode inside the INVITE"


def answer_in_session(cast: Cast) -> str:
    since, text = cast.far.position, "O Romeo, Romeo! Wherefore art thou <Romeo> & Co?"
    cast.alice.send("message", to=ROMEO, body=text)
    cast.far.expect(since, event="im", sender=ALICE, to=ROMEO, text=text)
    if cast.far.seen(since, event="session"):
        raise PartFailed("a second session was opened for the answer")
    return "alice's answer used the session that romeo had opened"


def typing(cast: Cast) -> str:
    since = cast.alice.position
    cast.far_does("typing", 200, **{"from": "romeo", "to": ALICE, "text": "type"})
    cast.alice.expect(since, event="typing", state="composing")
    since = cast.far.position
    cast.alice.send("typing", to=ROMEO, state="composing")
    cast.far.expect(since, event="typing", sender=ALICE, state="type")
    return "typing notices went both ways"


def html(cast: Cast) -> str:
    since = cast.alice.position
    span = (
        '<SPAN lang="en-gb" style="color:#1F3864;">and Juliet is the <B>sun</B> &amp; moon<BR>'
        'see <A href="https://example.org/verona">Verona</A></SPAN>'
    )
    cast.far_does("html", 200, **{"from": "romeo", "to": ALICE, "text": span})
    got = cast.alice.expect(since, event="message")["body"]
    for piece in ("and Juliet is the sun & moon\n", "https://example.org/verona"):
        if piece not in got:
            raise PartFailed(f"{piece!r} is not in {got!r}")
    if "<" in got:
        raise PartFailed(f"markup was left in {got!r}")
    return "the HTML arrived as text, with its line break and the target of its link"


def message_outwards(cast: Cast) -> str:
    since = cast.far.position
    cast.carol.send("message", to=ROMEO, body="Good morrow, from a new session")
    cast.carol.send("message", to=ROMEO, body="and a second text, in order")
    cast.far.expect(since, 30, event="session", sender=CAROL, to=ROMEO)
    cast.far.expect(since, 30, event="im", text="and a second text, in order")
    texts = [event["text"] for event in cast.far.seen(since, event="im")]
    if texts != ["Good morrow, from a new session", "and a second text, in order"]:
        raise PartFailed(f"romeo got {texts}")
    return "carol's texts waited for the late 200 and arrived in order"


def group_chat(cast: Cast) -> str:
    cast.far_does("conference", 488, **{"from": "romeo", "to": ALICE})
    cast.far_does("multiparty", 420, **{"from": "romeo", "to": ALICE})
    return "a conference was refused with 488, the older form with 420"


def nobody_there(cast: Cast) -> str:
    since = cast.alice.position
    cast.alice.send("message", to="nobody@lync.example", body="Is anybody there?")
    told = cast.alice.expect(since, event="refused", sender="nobody@lync.example")
    if told["condition"] != "item-not-found":
        raise PartFailed(f"alice was told {told['condition']}: {told['text']}")
    return f"alice was told: {told['condition']} {told['text']!r}"


def nobody_here(cast: Cast) -> str:
    cast.far_does("im", 404, **{"from": "romeo", "to": "nobody@home.example", "text": "Hello?"})
    return "romeo was told 404"


def good_bye(cast: Cast) -> str:
    seen = cast.far.position
    cast.far_does("leave", 200, **{"from": "romeo", "to": ALICE})
    cast.far_does("unsubscribe", 200, **{"from": "romeo", "to": ALICE})
    cast.far.expect(seen, event="presence", sender=ALICE, subscription="terminated")
    since = cast.far.position
    cast.alice.send("message", to=ROMEO, body="Parting is such sweet sorrow")
    cast.far.expect(since, 30, event="session", sender=ALICE)
    cast.far.expect(since, 30, event="im", text="Parting is such sweet sorrow")
    return "romeo left; alice's next text opened a new session"


STORY = [
    # romeo first: whom alice has on her list may see her without asking.
    Step("romeo adds alice to his contacts", romeo_watches_alice),
    Step("alice is busy, away, and back", alice_changes),
    Step("romeo's server refreshes its subscription", refresh),
    Step("alice adds romeo to her contacts", alice_watches_romeo),
    Step("romeo is busy, goes, and comes back", romeo_is_busy),
    Step("romeo writes to alice", message_inwards),
    Step("alice answers", answer_in_session),
    Step("romeo types, alice types", typing),
    Step("romeo sends an HTML message", html),
    Step("carol writes to romeo, who takes his time to click", message_outwards),
    Step("romeo tries a group chat", group_chat),
    Step("alice writes to nobody", nobody_there),
    Step("romeo writes to nobody", nobody_here),
    Step("good-bye", good_bye),
]
