"""An outgoing S2S stream: we connect to another server and prove our domains to it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Any
from xml.etree.ElementTree import Element

from impfed.xmpp.jid import JidError
from impfed.xmpp.reader import StreamError, StreamHeader
from impfed.xmpp.s2s_acks import ENABLE
from impfed.xmpp.s2s_base import Input
from impfed.xmpp.s2s_names import domain_of
from impfed.xmpp.s2s_out_dialback import AskingStream, State
from impfed.xmpp.s2s_parts import (
    CLOSE,
    NS_BIDI,
    NS_BIDI_FEATURE,
    NS_SASL,
    NS_SM,
    NS_TLS,
    BeginTls,
    Retry,
    S2SWorld,
    opening,
    stream_error,
)
from impfed.xmpp.s2s_security import (
    Choice,
    Offer,
    Tls,
    check_server,
    choose_authentication,
    choose_tls,
)
from impfed.xmpp.stanza import Stanza

__all__ = ["OutgoingStream", "State"]

Next = tuple[Input, Any] | None

#: Dialback and SASL conditions after which the same attempt would end the same way.
_LASTING = {
    "forbidden",
    "item-not-found",
    "not-allowed",
    "not-authorized",
    "policy-violation",
    "remote-server-not-found",  # it cannot find us, or ejabberd does not take our certificate
}

#: Stream errors that the same attempt would meet again.
_LASTING_ERRORS = {
    "host-gone",
    "host-unknown",
    "invalid-from",
    "not-authorized",
    "policy-violation",
    "unsupported-version",
}


class OutgoingStream(AskingStream):
    """The initiating side of a stream.

    :param verify_only: for questions to an authoritative server; no domain of ours is proven.
    :param in_clear: TLS with this peer has just failed: try without, where that is allowed.
    :param without_sasl: SASL EXTERNAL with this peer has just failed.
    :param external: whether we have a certificate to show.
    :param bidi: whether to ask for both directions.
    """

    def __init__(
        self,
        world: S2SWorld,
        local: str,
        remote: str,
        *,
        verify_only: bool = False,
        in_clear: bool = False,
        without_sasl: bool = False,
        external: bool = True,
        bidi: bool = True,
    ) -> None:
        super().__init__(world)
        self.local = local
        self.remote = remote
        self.verify_only = verify_only
        self._security = world.security(local, remote)
        self._in_clear = in_clear
        self._without_sasl = without_sasl
        self._external = external
        self._wants_bidi = bidi
        self._authenticated = False
        self._features: Element | None = None

    # -- the header ----------------------------------------------------------------------------

    def _open_stream(self, item: Any) -> Next:
        self._header_sent = True
        self._output.append(opening(self.local, self.remote))
        return None

    def _read_header(self, header: StreamHeader) -> Next:
        self.id = header.id
        if header.from_:
            try:
                if domain_of(header.from_) != self.remote:
                    words = f"the peer calls itself {header.from_}, not {self.remote}"
                    return Input.REFUSED, ("invalid-from", words)
            except JidError as error:
                return Input.REFUSED, ("invalid-from", str(error))
        if header.version is None or header.version < (1, 0):
            return Input.FEATURES, None
        return None

    def _choose(self, features: Element | None) -> Next:
        """Decide what comes next, from what the peer offers."""
        self._features = features
        if not self.secured:
            decision = choose_tls(self._security, self._tls_offer(features), self._in_clear)
            if decision is not None:
                if decision.choice is Choice.TLS:
                    return Input.GO_TLS, None
                return Input.REFUSED, ("policy-violation", decision.words)
        problem = self.certificate.problem(self.remote) if self.secured else ""
        if not self._authenticated:
            self._ask_for_bidi(features, problem)
        if self._authenticated or self.verify_only:
            refusal = check_server(self._security, self.secured, problem)
            if refusal:
                return Input.REFUSED, ("not-authorized", refusal)
            return Input.GO_OPEN, None
        return self._choose_authentication(features, problem)

    def _choose_authentication(self, features: Element | None, problem: str) -> Next:
        external = self._external and not self._without_sasl and _offers_external(features)
        # Servers can do dialback without saying so.
        decision = choose_authentication(self._security, self.secured, external, True, problem)
        if decision.choice is Choice.EXTERNAL:
            return Input.GO_SASL, None
        if decision.choice is Choice.DIALBACK:
            return Input.GO_DIALBACK, None
        return Input.REFUSED, ("not-authorized", decision.words)

    def _tls_offer(self, features: Element | None) -> Offer:
        offer = None if features is None else features.find(f"{{{NS_TLS}}}starttls")
        if offer is None:
            return Offer.NONE
        required = offer.find(f"{{{NS_TLS}}}required") is not None
        return Offer.REQUIRED if required else Offer.OPTIONAL

    def _ask_for_bidi(self, features: Element | None, problem: str) -> None:
        """Ask for both directions, but only of a peer that has proven itself (XEP-0288)."""
        if not self._wants_bidi or self.verify_only or features is None or self.bidi:
            return
        if not self.secured or problem:
            return
        for namespace in (NS_BIDI_FEATURE, NS_BIDI):
            if features.find(f"{{{namespace}}}bidi") is not None:
                self.bidi = True
                self._output.append(f"<bidi xmlns='{NS_BIDI}'/>")
                return

    # -- TLS and SASL --------------------------------------------------------------------------

    def _ask_for_tls(self, item: Any) -> Next:
        self._output.append(f"<starttls xmlns='{NS_TLS}'/>")
        return None

    def _begin_tls(self, item: Element) -> Next:
        self._restart(False)
        self._events.append(BeginTls(self.local))
        return None

    def _tls_refused(self, item: Element) -> Next:
        self._output.append(CLOSE)
        self._end_without_tls("the peer refused to begin TLS", False)
        return None

    def _secured(self, item: Any) -> Next:
        self.secured = True
        problem = self.certificate.problem(self.remote)
        refusal = check_server(self._security, True, problem)
        if refusal:
            return Input.REFUSED, ("not-authorized", refusal)
        return self._open_stream(item)

    def _tls_lost(self, words: str) -> Next:
        self._end_without_tls(words, False)
        return None

    def _tls_too_slow(self, item: Any) -> Next:
        self._end_without_tls("the TLS handshake took too long", True)
        return None

    def _header_lost(self, words: str) -> Next:
        """With TLS 1.3 a peer refuses our certificate only after our half of the handshake."""
        if self.secured and not self._authenticated:
            self._end_without_tls(words, False)
            return None
        return self._lost(words)

    def _end_without_tls(self, words: str, by_us: bool) -> None:
        again = Retry.WITHOUT_TLS if self._security.tls is Tls.OPTIONAL else Retry.LATER
        self._finish("", words, by_us, again)

    def _authenticate(self, item: Any) -> Next:
        identity = b64encode(self.local.encode()).decode()
        head = f"<auth xmlns='{NS_SASL}' mechanism='EXTERNAL'>"
        self._output.append(f"{head}{identity}</auth>")
        return None

    def _authenticated_by_sasl(self, item: Element) -> Next:
        self._authenticated = True
        self.method = "SASL EXTERNAL"
        self._restart(True)
        return self._open_stream(item)

    def _sasl_refused(self, item: Element) -> Next:
        words = _sasl_words(item)
        if self._security.dialback:
            self._without_sasl = True
            return Input.GO_DIALBACK, None
        return Input.REFUSED, ("not-authorized", f"the peer refuses SASL EXTERNAL: {words}")

    def _sasl_odd(self, item: Element) -> Next:
        return Input.BROKEN, ("bad-format", "SASL EXTERNAL has no challenge")

    def _sasl_lost(self, item: Any) -> Next:
        """The peer closes instead of saying why: dialback, where that is allowed, is next."""
        words = str(item) if isinstance(item, str) else "the peer ended the stream"
        condition = ""
        if isinstance(item, StreamError):
            condition = item.condition
            words = f"the peer ended the stream: {item.condition} {item.text}".strip()
        again = Retry.WITHOUT_SASL if self._security.dialback else Retry.LATER
        self._finish(condition, f"during SASL EXTERNAL: {words}", False, again)
        return None

    # -- an open stream ------------------------------------------------------------------------

    def _opened(self, item: Any) -> Next:
        features = self._features
        self._deadline = None
        if not self.verify_only:
            if features is not None and features.find(f"{{{NS_SM}}}sm") is not None:
                self._output.append(ENABLE)
                self.acks.sending = True
            self._announce(self.local, self.remote)
        questions, self._questions = self._questions, []
        for question in questions:
            self._ask_about(*question)
        return None

    def _acks_agreed(self, item: Element) -> Next:
        self.acks.receiving = True
        return None

    def _acks_refused(self, item: Element) -> Next:
        self.acks.sending = False
        self.acks.asked_at = None
        self.acks.waiting.clear()
        return None

    def _stanza(self, item: Stanza) -> Next:
        if self.bidi:
            words = f"{item.from_.domain} may not send to {item.to.domain} on this stream"
            return Input.BROKEN, ("invalid-from", words)
        return Input.BROKEN, ("not-authorized", "this stream carries stanzas the other way")

    def _refused_by_peer(self, item: StreamError) -> Next:
        """The peer ends a stream that was not open yet."""
        self._output.append(CLOSE)
        words = f"{item.condition}: {item.text}" if item.text else item.condition
        again = Retry.NEVER if item.condition in _LASTING_ERRORS else Retry.LATER
        self._finish(item.condition, f"the peer ended the stream: {words}", False, again)
        return None

    def _give_up(self, item: tuple[str, str]) -> Next:
        """End the stream because of what the peer is, or offers, or answers."""
        condition, words = item
        self._send_header()
        known = condition in ("policy-violation", "not-authorized", "invalid-from")
        self._output.append(stream_error(condition, words) if known else CLOSE)
        again = Retry.NEVER if condition in _LASTING else Retry.LATER
        self._finish(condition, words, True, again)
        return None

    def _break_out(self, item: tuple[str, str]) -> Next:
        """End the stream with an error: the peer broke a rule."""
        condition, words = item
        self._output.append(stream_error(condition, words))
        self._finish(condition, words, True)
        return None


def _offers_external(features: Element | None) -> bool:
    if features is None:
        return False
    offered = features.findall(f"{{{NS_SASL}}}mechanisms/{{{NS_SASL}}}mechanism")
    return any((mechanism.text or "").strip() == "EXTERNAL" for mechanism in offered)


def _sasl_words(failure: Element) -> str:
    parts = []
    for child in failure:
        name = child.tag.rpartition("}")[2]
        parts.append((child.text or "") if name == "text" else name)
    return ": ".join(filter(None, parts)) or "no reason given"


_OUT = OutgoingStream
_C = State.CLOSED

_ENDINGS: dict[Input, tuple[State, Callable[..., Next]]] = {
    Input.ERROR: (_C, _OUT._refused_by_peer),
    Input.END: (_C, _OUT._peer_end),
    Input.BROKEN: (_C, _OUT._break_out),
    Input.REFUSED: (_C, _OUT._give_up),
    Input.TIMEOUT: (_C, _OUT._time_out),
    Input.SILENT: (_C, _OUT._silent),
    Input.LOST: (_C, _OUT._lost),
    Input.CLOSE: (_C, _OUT._close),
}


def _odd(state: State) -> dict[Input, tuple[State, Callable[..., Next]]]:
    """Return rows for what a peer may not send in a state: most of it ends the stream."""
    return {
        **_ENDINGS,
        Input.FEATURES: (state, _OUT._unknown),
        Input.STARTTLS: (state, _OUT._unknown),
        Input.PROCEED: (state, _OUT._unknown),
        Input.TLS_FAILURE: (state, _OUT._unknown),
        Input.AUTH: (state, _OUT._unknown),
        Input.SASL_SUCCESS: (state, _OUT._unknown),
        Input.SASL_FAILURE: (state, _OUT._unknown),
        Input.SASL_OTHER: (state, _OUT._unknown),
        Input.ELEMENT: (state, _OUT._unknown),
        Input.STANZA: (state, _OUT._early),
        Input.BAD_STANZA: (state, _OUT._early),
        Input.RESULT: (state, _OUT._request_out_of_place),
        Input.VERIFY: (state, _OUT._key_out_of_place),
        Input.RESULT_ANSWER: (state, _OUT._ignore),
        Input.VERIFY_ANSWER: (state, _OUT._ignore),
        Input.BIDI: (state, _OUT._ignore),
        Input.ENABLE: (state, _OUT._unknown),
        Input.ENABLED: (state, _OUT._ignore),
        Input.SM_FAILED: (state, _OUT._ignore),
        Input.RESUME: (state, _OUT._no_resumption),
        Input.ACK_REQUEST: (state, _OUT._answer_count),
        Input.ACK: (state, _OUT._ignore),
    }


OutgoingStream.TABLE = {
    State.IDLE: {
        Input.CONNECTED: (State.HEADER, _OUT._open_stream),
        Input.CONNECTED_DIRECT: (State.SECURING, _OUT._ignore),
        Input.LOST: (_C, _OUT._lost),
        Input.CLOSE: (_C, _OUT._close_unopened),
    },
    State.SECURING: {
        Input.SECURED: (State.HEADER, _OUT._secured),
        Input.LOST: (_C, _OUT._tls_lost),
        Input.TIMEOUT: (_C, _OUT._tls_too_slow),
        Input.CLOSE: (_C, _OUT._close_unopened),
    },
    State.HEADER: {
        **_ENDINGS,
        Input.HEADER: (State.FEATURES, _OUT._read_header),
        Input.LOST: (_C, _OUT._header_lost),
    },
    State.FEATURES: {
        **_odd(State.FEATURES),
        Input.FEATURES: (State.CHOOSING, _OUT._choose),
    },
    State.CHOOSING: {
        **_ENDINGS,
        Input.GO_TLS: (State.PROCEED, _OUT._ask_for_tls),
        Input.GO_SASL: (State.SASL, _OUT._authenticate),
        Input.GO_DIALBACK: (State.DIALBACK, _OUT._prove_us),
        Input.GO_OPEN: (State.OPEN, _OUT._opened),
    },
    State.PROCEED: {
        **_odd(State.PROCEED),
        Input.PROCEED: (State.SECURING, _OUT._begin_tls),
        Input.TLS_FAILURE: (_C, _OUT._tls_refused),
    },
    State.SASL: {
        **_odd(State.SASL),
        Input.SASL_SUCCESS: (State.HEADER, _OUT._authenticated_by_sasl),
        Input.SASL_FAILURE: (State.CHOOSING, _OUT._sasl_refused),
        Input.SASL_OTHER: (State.SASL, _OUT._sasl_odd),
        Input.ERROR: (_C, _OUT._sasl_lost),
        Input.END: (_C, _OUT._sasl_lost),
        Input.LOST: (_C, _OUT._sasl_lost),
    },
    State.DIALBACK: {
        **_odd(State.DIALBACK),
        Input.RESULT_ANSWER: (State.DIALBACK, _OUT._pair_answered),
        Input.GO_OPEN: (State.OPEN, _OUT._opened),
    },
    State.OPEN: {
        **_odd(State.OPEN),
        Input.ERROR: (_C, _OUT._peer_error),
        Input.RESULT_ANSWER: (State.OPEN, _OUT._pair_answered),
        Input.VERIFY_ANSWER: (State.OPEN, _OUT._verify_answered),
        Input.ENABLED: (State.OPEN, _OUT._acks_agreed),
        Input.SM_FAILED: (State.OPEN, _OUT._acks_refused),
        Input.ACK: (State.OPEN, _OUT._counted),
        Input.FEATURES: (State.OPEN, _OUT._ignore),
        Input.STANZA: (State.OPEN, _OUT._stanza),
        Input.BAD_STANZA: (State.OPEN, _OUT._bad_stanza),
    },
    State.CLOSED: dict.fromkeys(Input, (_C, _OUT._ignore)),
}
