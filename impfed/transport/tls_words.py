"""TLS failures in words: which check failed, on which certificate, and what to do about it."""

from __future__ import annotations

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from impfed.transport.identity import date, describe, purposes_in_words

_CODES = SSL.X509VerificationCodes

#: OpenSSL's verification errors; {subject}, {issuer}, {start}, {end} and {purposes} are filled in.
_CHECKS: dict[int, str] = {
    _CODES.ERR_CERT_HAS_EXPIRED: "it expired on {end}",
    _CODES.ERR_CERT_NOT_YET_VALID: "it is valid only from {start} (is a clock wrong?)",
    _CODES.ERR_DEPTH_ZERO_SELF_SIGNED_CERT: (
        "it is self-signed and not among the trusted authorities"
    ),
    _CODES.ERR_SELF_SIGNED_CERT_IN_CHAIN: (
        "its chain ends at the root {subject}, which is not among the trusted authorities"
    ),
    _CODES.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY: (
        "its issuer {issuer} is not among the trusted authorities, nor did the peer send its"
        " certificate (a missing intermediate?)"
    ),
    _CODES.ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE: (
        "the peer sent no certificate of its issuer {issuer} (a missing intermediate?)"
    ),
    _CODES.ERR_CERT_SIGNATURE_FAILURE: "its signature is wrong",
    _CODES.ERR_CERT_REVOKED: "it is revoked",
    _CODES.ERR_INVALID_CA: "it is no authority, yet issued another certificate",
    _CODES.ERR_INVALID_PURPOSE: "it allows only the purposes {purposes}",
    _CODES.ERR_PATH_LENGTH_EXCEEDED: "the chain is longer than it allows",
    _CODES.ERR_CERT_CHAIN_TOO_LONG: "the chain is too long",
    _CODES.ERR_UNHANDLED_CRITICAL_EXTENSION: "it has a critical extension that is not understood",
    _CODES.ERR_PERMITTED_VIOLATION: "an authority above it does not permit its names",
    _CODES.ERR_EXCLUDED_VIOLATION: "an authority above it excludes its names",
}

#: OpenSSL's handshake errors by a part of their reason string.  The alerts were sent by the peer.
_REASONS: tuple[tuple[str, str], ...] = (
    (
        "peer did not return a certificate",
        "the peer showed no client certificate, which is required",
    ),
    (
        "alert certificate required",
        "the peer demands a client certificate and we showed none",
    ),
    ("alert unknown ca", "the peer refused our certificate: it does not trust its issuer"),
    ("alert certificate expired", "the peer refused our certificate: it has expired"),
    ("alert certificate revoked", "the peer refused our certificate: it is revoked"),
    ("alert certificate unknown", "the peer refused our certificate, not saying why"),
    (
        "alert unsupported certificate",
        "the peer refused our certificate: it does not allow this purpose (many public authorities"
        " no longer issue clientAuth)",
    ),
    ("alert bad certificate", "the peer refused our certificate as bad"),
    ("alert access denied", "the peer refused our certificate: access denied"),
    (
        "alert handshake failure",
        "the peer broke off the handshake (no common cipher, or it wants a client certificate)",
    ),
    ("alert protocol version", "the peer speaks none of our TLS versions (1.2 and later)"),
    ("alert unrecognized name", "the peer has no certificate for the name we asked for"),
    ("alert no application protocol", "the peer wants another application protocol (ALPN)"),
    ("alert internal error", "the peer met an internal error"),
    ("unsupported protocol", "the peer offers only TLS versions that are too old"),
    ("no shared cipher", "there is no cipher that both sides know"),
    ("no suitable signature algorithm", "the peer knows no signature that fits our certificate"),
    ("wrong version number", "what came is not TLS: does the peer speak plain text on this port?"),
    (
        "packet length too long",
        "what came is not TLS: does the peer speak plain text on this port?",
    ),
    ("http request", "the peer speaks HTTP here"),
    ("certificate verify failed", "the peer's certificate was refused"),
)


def explain_check(certificate: crypto.X509, code: int, depth: int) -> str:
    """Say which check of the peer's chain failed, on which certificate.

    :param code: OpenSSL's X509 error number.
    :param depth: 0 for the peer's own certificate, 1 for its issuer, and so on.
    """
    which = "the peer's certificate" if depth == 0 else f"an authority of the peer (depth {depth})"
    try:
        cert = certificate.to_cryptography()
        fields = _fields(cert)
        about = describe(cert)
    except ValueError as error:
        return f"{which} was refused: it cannot be read ({error})"
    check = _CHECKS.get(code, f"OpenSSL's verification error {code}").format(**fields)
    return f"{which} was refused: {check}: {about}"


def explain_failure(failure: Failure, refusal: str, handshake_done: bool) -> str:
    """Say why a TLS connection ended.

    :param failure: the reason that Twisted gives to ``connectionLost``.
    :param refusal: what our own checks said about the peer's certificate, empty for nothing.
    :param handshake_done: whether our half of the handshake had been done: with TLS 1.3 a peer may
        refuse our certificate only after that.
    """
    if refusal:
        return refusal
    error = failure.value
    if isinstance(error, SSL.Error):
        return _explain_openssl(error)
    if isinstance(error, ConnectionDone | ConnectionLost):
        if handshake_done:
            return "the peer closed the connection"
        return (
            "the peer closed the connection during the TLS handshake (often it refuses our"
            " certificate, or does not speak TLS on this port)"
        )
    return str(error) or type(error).__name__


def _explain_openssl(error: SSL.Error) -> str:
    reasons = []
    if error.args and isinstance(error.args[0], list):
        reasons = [str(entry[-1]) for entry in error.args[0]]
    elif len(error.args) > 1:
        reasons = [str(error.args[1])]
    for reason in reversed(reasons):
        for part, words in _REASONS:
            if part in reason.casefold():
                return f"{words} (OpenSSL: {reason})"
    return "TLS failed: " + ("; ".join(filter(None, reasons)) or "OpenSSL gives no reason")


def _fields(certificate: x509.Certificate) -> dict[str, str]:
    return {
        "subject": certificate.subject.rfc4514_string() or "(empty subject)",
        "issuer": certificate.issuer.rfc4514_string() or "(empty issuer)",
        "start": date(certificate.not_valid_before_utc),
        "end": date(certificate.not_valid_after_utc),
        "purposes": purposes_in_words(certificate),
    }
