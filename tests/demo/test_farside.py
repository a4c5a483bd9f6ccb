"""The far side's checks: a correct peer passes, each kind of breach is noticed."""

from __future__ import annotations

import base64

from twisted.trial.unittest import SynchronousTestCase

from demo.farside import dialect, rules
from demo.farside.rules import Dialog
from demo.farside.wire import BrokenStream, Framer, Message, address_of, split_values, uri_of

ROMEO = dialect.Person.make("romeo@lync.example", "Roméo Montague")


def invite() -> Message:
    """Return an INVITE as the far side sends it."""
    routes = dialect.record_routes("lync.example", 5061)
    via = dialect.vias("192.0.2.10", 5061, dialect.branch())
    return Message(
        "INVITE sip:alice@home.example SIP/2.0",
        [
            *dialect.interleave(via, routes),
            ("From", f'"{ROMEO.name}"<sip:{ROMEO.address}>;tag=a1;epid={ROMEO.epid}'),
            ("To", "<sip:alice@home.example>"),
            ("Call-ID", "c1"),
            ("CSeq", "1 INVITE"),
        ],
    )


def good_answer(sent: Message) -> Message:
    """Return the 200 of a correct peer."""
    echoed = [("Via", via) for via in sent.all("via")]
    echoed += [("Record-Route", route) for route in sent.all("record-route")]
    return Message(
        "SIP/2.0 200 OK",
        [
            *echoed,
            ("From", sent.get("from")),
            ("To", sent.get("to") + ";tag=n1"),
            ("Call-ID", "c1"),
            ("CSeq", "1 INVITE"),
            ("Contact", "<sip:alice@fed.home.example:5061;transport=tls>"),
            ("Content-Length", "0"),
        ],
    )


def dialog() -> Dialog:
    """Return a dialog that the far side has answered."""
    return Dialog(
        user=ROMEO.address,
        peer="alice@home.example",
        call_id="c1",
        local=f"<sip:{ROMEO.address}>;tag=r1",
        remote="<sip:alice@home.example>",
        local_tag="r1",
        remote_tag="n1",
        gruu=ROMEO.gruu,
        routes=dialect.record_routes("lync.example", 5061),
        remote_cseq=1,
    )


def good_request(within: Dialog, method: str = "MESSAGE", cseq: int = 2) -> Message:
    """Return a correct request in a dialog."""
    return Message(
        f"{method} {within.gruu} SIP/2.0",
        [
            ("Via", "SIP/2.0/TLS fed.home.example:5061;branch=z9hG4bKx"),
            ("Max-Forwards", "70"),
            *(("Route", f"<{uri_of(route)}>") for route in within.routes),
            ("From", "<sip:alice@home.example>;tag=n1"),
            ("To", f"<sip:{ROMEO.address}>;tag=r1"),
            ("Call-ID", "c1"),
            ("CSeq", f"{cseq} {method}"),
            ("Content-Length", "0"),
        ],
    )


def changed(message: Message, name: str, old: str, new: str) -> Message:
    """Return a copy with a text replaced in the headers of one name."""
    headers = [(n, v.replace(old, new) if n.lower() == name else v) for n, v in message.headers]
    return Message(message.start, headers, message.body)


def names(found: list[rules.Breach]) -> set[str]:
    """Return which rules were broken."""
    return {rule for rule, _ in found}


class Answers(SynchronousTestCase):
    """Responses to what the far side sends."""

    def test_a_correct_answer(self) -> None:
        """An answer that echoes everything passes."""
        sent = invite()
        self.assertEqual(rules.answer(sent, good_answer(sent)), [])

    def test_changed_bytes(self) -> None:
        """A changed byte in Via, Record-Route, From, Call-ID or CSeq is a breach."""
        sent = invite()
        cases = [
            ("via", "ms-received-cid=1F400", "ms-received-cid=1f400", "via"),
            ("via", ";branched=FALSE", "", "via"),
            ("record-route", ";tag=", ";Tag=", "record-route"),
            ("from", f";epid={ROMEO.epid}", "", "from"),
            ("call-id", "c1", "C1", "call-id"),
            ("cseq", "1 INVITE", "2 INVITE", "cseq"),
            ("to", ";tag=n1", "", "to"),
        ]
        for header, old, new, rule in cases:
            bad = changed(good_answer(sent), header, old, new)
            self.assertIn(rule, names(rules.answer(sent, bad)), (header, old))

    def test_echoed_extensions(self) -> None:
        """An option of Microsoft's in Supported is a breach, whatever its case."""
        sent = invite()
        for option in ("ms-sender", "com.microsoft.autoextend", "timer, MS-benotify"):
            answer = good_answer(sent)
            answer.headers.append(("Supported", option))
            self.assertEqual(names(rules.answer(sent, answer)), {"supported"})

    def test_missing_length(self) -> None:
        """A message without Content-Length is a breach."""
        sent = invite()
        answer = good_answer(sent)
        answer.headers.remove(("Content-Length", "0"))
        self.assertEqual(names(rules.answer(sent, answer)), {"content-length"})

    def test_compression(self) -> None:
        """A NEGOTIATE must not be accepted."""
        sent = Message("NEGOTIATE sip:a SIP/2.0", [("To", "<sip:a>"), ("CSeq", "1 NEGOTIATE")])
        for start, broken in (("SIP/2.0 200 OK", True), ("SIP/2.0 405 Method Not Allowed", False)):
            answer = Message(
                start, [("To", "<sip:a>;tag=1"), ("CSeq", "1 NEGOTIATE"), ("Content-Length", "0")]
            )
            self.assertEqual("negotiate" in names(rules.answer(sent, answer)), broken)


class Requests(SynchronousTestCase):
    """Requests that the node sends."""

    def test_a_correct_request(self) -> None:
        """A request to the GRUU along the issued route passes, copied parameters or not."""
        within = dialog()
        self.assertEqual(rules.inside(good_request(within), within), [])
        copied = good_request(within, cseq=3)
        copied.headers = [header for header in copied.headers if header[0] != "Route"]
        copied.headers += [("Route", route) for route in within.routes]
        self.assertEqual(rules.inside(copied, within), [])

    def test_routes(self) -> None:
        """A route that is changed, turned round, or missing is a breach."""
        within = dialog()
        right = good_request(within)
        self.assertEqual(
            names(
                rules.inside(changed(right, "route", "ms-route-sig=a", "ms-route-sig=A"), within)
            ),
            {"route"},
        )
        for cseq, cut in ((3, lambda routes: routes[::-1]), (4, lambda routes: routes[:1])):
            bad = good_request(within, cseq=cseq)
            routes = [header for header in bad.headers if header[0] == "Route"]
            rest = [header for header in bad.headers if header[0] != "Route"]
            bad.headers = rest + cut(routes)
            self.assertEqual(names(rules.inside(bad, within)), {"route"})

    def test_target(self) -> None:
        """Anything but the GRUU as Request-URI is a breach."""
        within = dialog()
        bad = good_request(within)
        bad.start = f"MESSAGE sip:{ROMEO.address} SIP/2.0"
        self.assertEqual(names(rules.inside(bad, within)), {"request-uri"})

    def test_numbers(self) -> None:
        """CSeq must rise with every request."""
        within = dialog()
        self.assertEqual(rules.inside(good_request(within, cseq=5), within), [])
        self.assertEqual(names(rules.inside(good_request(within, cseq=5), within)), {"cseq"})

    def test_offers(self) -> None:
        """An IM offer needs a message line with accept-types."""
        request = Message("INVITE sip:a SIP/2.0", [("Content-Type", "application/sdp")])
        request.body = dialect.sdp("null")
        self.assertEqual(rules.offer(request), [])
        request.body = request.body.replace(b"m=message", b"m=audio")
        self.assertEqual(names(rules.offer(request)), {"sdp"})

    def test_watchers(self) -> None:
        """Our SUBSCRIBE accepts plain PIDF and nothing else."""
        headers = [("Event", "presence"), ("Accept", "application/pidf+xml"), ("Expires", "7200")]
        request = Message("SUBSCRIBE sip:a SIP/2.0", headers)
        self.assertEqual(rules.watcher(request), [])
        request.headers[1] = ("Accept", "application/pidf+xml, application/xpidf+xml")
        self.assertEqual(names(rules.watcher(request)), {"accept"})

    def test_certificates(self) -> None:
        """The exact name must be there, no wildcard; the From domain lies under it."""
        self.assertEqual(rules.certificate(["fed.home.example"], "fed.home.example"), [])
        for bad in (["*.home.example"], ["other.example"], []):
            self.assertTrue(rules.certificate(bad, "fed.home.example"))
        message = Message("MESSAGE sip:a SIP/2.0", [("From", "<sip:alice@home.example>;tag=1")])
        self.assertEqual(rules.sender(message, ["fed.home.example"]), [])
        self.assertTrue(rules.sender(message, ["fed.other.example"]))


class Documents(SynchronousTestCase):
    """Presence documents as Lync reads them."""

    def test_own_documents(self) -> None:
        """What the far side writes it also reads."""
        for state, shown in (("available", "available"), ("dnd", "busy"), ("offline", "offline")):
            seen = dialect.read_pidf(dialect.pidf(ROMEO, state, "at <lunch>"))
            self.assertEqual((seen.state, seen.note, seen.name), (shown, "at <lunch>", ROMEO.name))

    def test_what_lync_would_not_understand(self) -> None:
        """Two tuples, other activities, RFC 4480 persons and other roots are refused."""
        good = dialect.pidf(ROMEO, "busy").decode()
        one = good[good.index("<tuple") : good.index("</tuple>") + 8]
        for bad in (
            good.replace(one, one + one),
            good.replace(">busy<", ">meeting<"),
            good.replace("</presence>", '<p:person xmlns:p="urn:x"/></presence>'),
            good.replace(dialect.PIDF, "urn:other"),
            good.replace("<basic>open</basic>", ""),
            good[:-4],
        ):
            self.assertRaises(ValueError, dialect.read_pidf, bad.encode())

    def test_embedded_text(self) -> None:
        """The first text rides in base64, as UTF-8."""
        name, value = dialect.embedded("ça va?")[0]
        self.assertEqual(name, "ms-text-format")
        self.assertEqual(base64.b64decode(value.partition("ms-body=")[2]).decode(), "ça va?")


class Wire(SynchronousTestCase):
    """Framing and values."""

    def test_any_cut(self) -> None:
        """Messages come out the same wherever the bytes were cut."""
        data = b"\r\n\r\n" + invite().encode() + Message("ACK sip:a SIP/2.0", [], b"x" * 9).encode()
        whole = [message.start for message in Framer().feed(data)]
        for cut in range(len(data)):
            framer = Framer()
            got = [*framer.feed(data[:cut]), *framer.feed(data[cut:])]
            self.assertEqual([message.start for message in got], whole)

    def test_garbage(self) -> None:
        """What is no SIP closes the connection."""
        for data in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\xff\xfe SIP/2.0 x\r\n\r\n",
            b"A b SIP/2.0\r\nx\r\n\r\n",
        ):
            self.assertRaises(BrokenStream, Framer().feed, data)

    def test_values(self) -> None:
        """Commas inside quotes and brackets split nothing."""
        self.assertEqual(split_values('"a,b" <sip:c,d>, <sip:e>'), ['"a,b" <sip:c,d>', "<sip:e>"])
        self.assertEqual(address_of("sip:Ann@Home.Example:5061;transport=tls"), "Ann@home.example")
