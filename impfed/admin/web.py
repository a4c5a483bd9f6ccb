"""The User Options page: server-rendered, without scripts, for whoever opened a one-time link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from klein import Klein
from twisted.internet.defer import Deferred, inlineCallbacks, maybeDeferred
from twisted.python.failure import Failure
from twisted.web.http import Request as HttpRequest
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from impfed.admin.actions import Actions, words_of
from impfed.admin.login import LoginLinks, Session, Sessions, same
from impfed.admin.options_api import OptionsError
from impfed.admin.pages import Pages
from impfed.core.log import EventLog
from impfed.core.metrics import Metrics
from impfed.xmpp.jid import JID

log = EventLog("impfed.admin")

#: What the page may load, and who may show it in a frame: itself, and nobody.
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self';"
    " frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}

Fields = dict[str, list[str]]


class Refused(Exception):
    """A request that our pages do not make; says why."""


class UserOptionsWeb:
    """The pages and forms.

    :param public_url: where users find the page, without a slash at the end.
    :param own: the node's own address, for the words on the page; "" where there are several.
    """

    app = Klein()

    def __init__(
        self,
        actions: Actions,
        links: LoginLinks,
        sessions: Sessions,
        metrics: Metrics,
        public_url: str,
        own: str,
    ) -> None:
        parts = urlsplit(public_url)
        self.base = parts.path
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._public_url = public_url
        self._actions = actions
        self._links = links
        self._sessions = sessions
        self._metrics = metrics
        self._own = own
        self._pages = Pages(self.base)
        # With a path of its own the page shares its host with others, who need not see the cookies.
        prefix = "__Secure-" if self.base else "__Host-"
        self._session_cookie = f"{prefix}impfed-session"
        self._visit_cookie = f"{prefix}impfed-visit"

    def link_for(self, user: JID) -> Deferred[str]:
        """Fire with a one-time link for a user; fails with TooMany when he has asked too often."""
        issued: Deferred[str] = self._links.issue(user)
        return issued.addCallback(lambda token: f"{self._public_url}/login/{token}")

    # -- who asks ----------------------------------------------------------------------------------

    def _session(self, request: HttpRequest) -> Deferred[Session | None]:
        found: Deferred[Session | None] = self._sessions.find(
            _cookie(request, self._session_cookie)
        )
        return found

    def _set_cookie(
        self, request: HttpRequest, name: str, value: str, max_age: int | None = None
    ) -> None:
        request.addCookie(
            name,
            value,
            path=self.base or "/",
            secure=True,
            httpOnly=True,
            sameSite="strict",
            max_age=None if max_age is None else str(max_age),
        )

    def _check_origin(self, request: HttpRequest) -> None:
        """Refuse a form that another site has sent, whatever it carries.

        :raises Refused: it has.
        """
        origin = _header(request, "origin")
        site = _header(request, "sec-fetch-site")
        if (origin and origin != self._origin) or site in ("cross-site", "same-site"):
            raise Refused("This form was not sent by our page.")

    # -- pages -------------------------------------------------------------------------------------

    @app.route("/", methods=["GET"])
    @inlineCallbacks
    def options(self, request: HttpRequest) -> Any:
        """The page itself, or how to get there."""
        session = yield self._session(request)
        if session is None:
            return self._welcome(request)
        return self._options_page(request, session)

    def _options_page(
        self, request: HttpRequest, session: Session, failed: str = "", error: str = ""
    ) -> str:
        _prepare(request)
        notices = self._sessions.told(session)
        typed = {name: values[0] for name, values in _fields(request).items()} if failed else {}
        return self._pages.options(
            self._actions.overview(session.user), session, notices, failed, error, typed
        )

    def _welcome(self, request: HttpRequest, words: str = "", status: int = 200) -> str:
        _prepare(request, status)
        return self._pages.welcome(self._own, words)

    @app.route("/style.css", methods=["GET"])
    def style(self, request: HttpRequest) -> bytes:
        """The style sheet."""
        _prepare(request, kind="text/css; charset=utf-8")
        request.setHeader(b"cache-control", b"max-age=86400")
        return self._pages.style

    @app.route("/login/<token>", methods=["GET"])
    @inlineCallbacks
    def show_login(self, request: HttpRequest, token: str) -> Any:
        """Show the button; a program that only looks at the link does not use it up."""
        user = yield self._links.peek(token)
        if user is None:
            return self._welcome(request, _WORTHLESS, 410)
        visit = _cookie(request, self._visit_cookie)
        if not visit:
            visit = self._sessions.new_visit()
            self._set_cookie(request, self._visit_cookie, visit, 600)
        _prepare(request)
        return self._pages.login(user, token, self._sessions.visit_csrf(visit))

    @app.route("/login", methods=["POST"])
    @inlineCallbacks
    def login(self, request: HttpRequest) -> Any:
        """Use the link up, and log its owner in."""
        fields = _fields(request)
        visit = _cookie(request, self._visit_cookie)
        try:
            self._check_origin(request)
            if not visit or not same(self._sessions.visit_csrf(visit), _first(fields, "csrf")):
                raise Refused("Open your link once more: your browser has not kept our cookie.")
        except Refused as refusal:
            return self._refused(request, refusal)
        user = yield self._links.redeem(_first(fields, "token"))
        if user is None:
            self._metrics.count("admin.worthless_links")
            return self._welcome(request, _WORTHLESS, 410)
        yield self._sessions.end(_cookie(request, self._session_cookie))
        self._set_cookie(request, self._session_cookie, (yield self._sessions.begin(user)))
        self._set_cookie(request, self._visit_cookie, "", 0)
        self._metrics.count("admin.logins")
        log.info("logged_in", "{user} opened the User Options", user=str(user))
        return self._back(request)

    @app.route("/logout", methods=["POST"])
    def logout(self, request: HttpRequest) -> Any:
        """Log out here, or everywhere."""
        return self._change(request, self._log_out)

    @inlineCallbacks
    def _log_out(self, request: HttpRequest, session: Session, fields: Fields) -> Any:
        if _first(fields, "everywhere"):
            yield self._sessions.end_all(session.user)
        yield self._sessions.end(_cookie(request, self._session_cookie))
        self._set_cookie(request, self._session_cookie, "", 0)
        return ""

    # -- changes -----------------------------------------------------------------------------------

    @app.route("/add-contact", methods=["POST"])
    def add_contact(self, request: HttpRequest) -> Any:
        """Add a foreign contact."""
        return self._change(
            request,
            lambda _, session, fields: self._actions.add_contact(
                session.user, _first(fields, "address"), _first(fields, "name")
            ),
            "add-contact",
        )

    @app.route("/add-user", methods=["POST"])
    def add_user(self, request: HttpRequest) -> Any:
        """Allow or block somebody."""
        return self._change(
            request,
            lambda _, session, fields: self._actions.add_user(
                session.user, _first(fields, "address"), _first(fields, "decision")
            ),
            "add-user",
        )

    @app.route("/add-domain", methods=["POST"])
    def add_domain(self, request: HttpRequest) -> Any:
        """Allow or block a domain."""
        return self._change(
            request,
            lambda _, session, fields: self._actions.add_domain(
                session.user, _first(fields, "domain"), _first(fields, "decision")
            ),
            "add-domain",
        )

    @app.route("/delete", methods=["POST"])
    def delete(self, request: HttpRequest) -> Any:
        """Delete what is selected."""
        return self._change(
            request,
            lambda _, session, fields: self._actions.delete(
                session.user, fields.get("entries", [])
            ),
            "delete",
        )

    @app.route("/default", methods=["POST"])
    def default(self, request: HttpRequest) -> Any:
        """Change what becomes of everybody else."""
        return self._change(
            request,
            lambda _, session, fields: self._actions.set_default(
                session.user, _first(fields, "default")
            ),
            "default",
        )

    @app.route("/answer", methods=["POST"])
    def answer(self, request: HttpRequest) -> Any:
        """Accept or decline a request, or forget how it was answered."""
        return self._change(
            request,
            lambda _, session, fields: self._actions.answer(
                session.user, _first(fields, "person"), _first(fields, "answer")
            ),
            "answer",
        )

    @inlineCallbacks
    def _change(
        self,
        request: HttpRequest,
        do: Callable[[HttpRequest, Session, Fields], str | Deferred[str]],
        form: str = "",
    ) -> Any:
        """Do what a form asks for, after looking who sent it; then show the page again.

        :param form: where on the page a mistake is told.
        """
        fields = _fields(request)
        session = yield self._session(request)
        if session is None:
            return self._welcome(
                request, "You were logged out. Write login to get a new link.", 403
            )
        try:
            self._check_origin(request)
            if not same(session.csrf, _first(fields, "csrf")):
                raise Refused("This form is out of date. Open the page again, and repeat it.")
        except Refused as refusal:
            return self._refused(request, refusal)
        try:
            words = yield maybeDeferred(do, request, session, fields)
        except OptionsError as error:
            page = self._options_page(request, session, form, words_of(error))
            request.setResponseCode(422)
            return page
        if words:
            yield self._sessions.tell(session, words)
        return self._back(request)

    def _refused(self, request: HttpRequest, refusal: Refused) -> str:
        self._metrics.count("admin.refused_forms")
        log.warn("form_refused", "a form was refused: {why}", why=str(refusal))
        _prepare(request, 403)
        return self._pages.problem("That did not work", str(refusal))

    def _back(self, request: HttpRequest) -> bytes:
        """Send the browser to the page, by GET, so that reloading repeats nothing."""
        _prepare(request, 303)
        request.setHeader(b"location", f"{self.base}/".encode())
        return b""

    # -- everything else ---------------------------------------------------------------------------

    @app.handle_errors(HTTPException)  # type: ignore[arg-type]  # klein says IRequest, gives a Request
    def no_such_page(self, request: HttpRequest, failure: Failure) -> str | bytes:
        """Answer what is no page of ours."""
        error: Any = failure.value
        if isinstance(error, RequestRedirect):  # the page without the slash at its end
            return self._back(request)
        _prepare(request, error.code or 404)
        if error.code == 405:
            request.setHeader(b"allow", ", ".join(error.valid_methods or ()).encode())
        return self._pages.problem("There is no such page", "")

    @app.handle_errors(Exception)  # type: ignore[arg-type]  # the same
    def fault(self, request: HttpRequest, failure: Failure) -> str:
        """Answer where we have failed, without saying how."""
        log.failure("page_failed", "a page could not be made", failure)
        self._metrics.count("admin.faults")
        _prepare(request, 500)
        assert failure.value is not None
        return self._pages.problem("That did not work", words_of(failure.value))


_WORTHLESS = "This link has been used, or is older than 5 minutes. Write login to get a new one."


def _prepare(
    request: HttpRequest, status: int = 200, kind: str = "text/html; charset=utf-8"
) -> None:
    request.setResponseCode(status)
    for name, value in _HEADERS.items():
        request.setHeader(name, value)
    request.setHeader(b"content-type", kind.encode())


def _cookie(request: HttpRequest, name: str) -> str:
    value: bytes | None = request.getCookie(name.encode())
    return (value or b"").decode("ascii", "replace")


def _header(request: HttpRequest, name: str) -> str:
    value = request.getHeader(name)
    return str(value or "")


def _fields(request: HttpRequest) -> Fields:
    """Return the values of a form; what is no UTF-8 comes with U+FFFD in its place."""
    return {
        name.decode("utf-8", "replace"): [value.decode("utf-8", "replace") for value in values]
        for name, values in (request.args or {}).items()
    }


def _first(fields: Fields, name: str) -> str:
    return next(iter(fields.get(name, ())), "")
