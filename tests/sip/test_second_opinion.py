"""Parsed values beside those of sipmessage, an independent reader."""

from __future__ import annotations

import sipmessage
from twisted.trial.unittest import SynchronousTestCase

from impfed.sip.message import SipMessage, SipRequest, SipResponse, parse_message
from impfed.sip.uri import SipUri
from tests.sip.material import DATA, each, lync

NAMES = sorted(
    path.stem
    for path in (DATA / "wire" / "lync").glob("*.sip")
    if not path.stem.startswith("stream")
)

# What sipmessage cannot read, with the reason.  A sample that it can read after all fails here.
REFUSED_THERE = {"invite-in-odd-case": "a parameter with an empty value, which Microsoft sends"}


def address(value: sipmessage.Address) -> tuple[str, str, str, str]:
    return (value.name, value.uri.scheme, value.uri.user or "", value.uri.host)


def our_address(message: SipMessage, name: str) -> tuple[str, str, str, str]:
    value = message.from_ if name == "from" else message.to
    uri = value.uri
    assert isinstance(uri, SipUri)
    return value.display, uri.scheme, uri.user, uri.host


def check(test: SynchronousTestCase, name: str) -> None:
    data = lync(name)
    ours, theirs = parse_message(data), sipmessage.Message.parse(data)
    if isinstance(ours, SipRequest):
        assert isinstance(theirs, sipmessage.Request)
        test.assertEqual(ours.method, theirs.method)
    else:
        assert isinstance(ours, SipResponse) and isinstance(theirs, sipmessage.Response)
        test.assertEqual((ours.status, ours.reason), (theirs.code, theirs.phrase))
    if name in REFUSED_THERE:
        test.assertRaises(ValueError, lambda: theirs.to_address)
        return
    test.assertEqual(our_address(ours, "from"), address(theirs.from_address))
    test.assertEqual(our_address(ours, "to"), address(theirs.to_address))
    test.assertEqual(ours.from_tag, theirs.from_address.parameters.get("tag", ""))
    test.assertEqual(ours.to_tag, theirs.to_address.parameters.get("tag", ""))
    test.assertEqual(ours.cseq, (theirs.cseq.sequence, theirs.cseq.method))
    test.assertEqual(ours.call_id, theirs.call_id)
    top = theirs.via[0]
    test.assertEqual((ours.via.transport, ours.via.host), (top.transport.upper(), top.host))
    test.assertEqual((ours.via.port, ours.via.branch), (top.port, top.parameters.get("branch", "")))
    test.assertEqual(len(ours.values("via")), len(theirs.via))
    media = theirs.content_type
    test.assertEqual(ours.content_type is None, media is None)
    if ours.content_type is not None and media is not None:
        test.assertEqual(ours.content_type.essence, media.mime_type.lower())
    test.assertEqual(ours.body, theirs.body)


@each([(name, name) for name in NAMES], "sipmessage reads the same values in {}.")(check)
class SecondOpinionTests(SynchronousTestCase):
    """Each wire sample read twice."""
