"""The pages as HTML: Jinja templates in which every value is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FunctionLoader, StrictUndefined

from impfed.admin.actions import DECISIONS, DEFAULTS, plain, shown, shown_subject
from impfed.admin.command_list import STANDS, sees
from impfed.admin.login import LINK_LIFETIME, Session
from impfed.admin.options_api import Overview
from impfed.xmpp.jid import JID


def _xmpp_uri(jid: JID, query: str) -> str:
    """Return an ``xmpp:`` URI (RFC 5122) with a query of XEP-0147."""
    return f"xmpp:{quote(jid.local, safe='')}@{quote(jid.domain)}?{query}"


class Pages:
    """Makes pages.

    :param base: path below which the pages stand, "" for none.
    :ivar style: the style sheet.
    """

    def __init__(self, base: str) -> None:
        folder = files("impfed.admin")
        templates = folder / "templates"
        self.style = (folder / "static" / "style.css").read_bytes()
        self._environment = Environment(
            loader=FunctionLoader(lambda name: (templates / name).read_text("utf-8")),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.globals.update(
            base=base,
            style=f"{base}/style.css?{sha256(self.style).hexdigest()[:12]}",
            shown=shown,
            subject=shown_subject,
            plain=plain,
            sees=sees,
            xmpp_uri=_xmpp_uri,
            decisions=DECISIONS,
            defaults=DEFAULTS,
            stands=STANDS,
        )

    def _render(self, name: str, **values: Any) -> str:
        return self._environment.get_template(name).render(**values)

    def welcome(self, own: str, words: str) -> str:
        """Say how to get a link.

        :param own: the node's own address, "" where there are several.
        :param words: what has happened, "" for nothing.
        """
        return self._render("welcome.html", own=own, words=words)

    def login(self, user: JID, token: str, csrf: str) -> str:
        """Show the button that logs a user in."""
        minutes = round(LINK_LIFETIME / 60)
        return self._render("login.html", user=user, token=token, csrf=csrf, minutes=minutes)

    def options(
        self,
        overview: Overview,
        session: Session,
        notices: Sequence[str],
        failed: str,
        error: str,
        typed: Mapping[str, str],
    ) -> str:
        """Show everything.

        :param failed: the form that could not be carried out, "" for none.
        :param error: why not.
        :param typed: what was typed into it.
        """
        return self._render(
            "options.html",
            overview=overview,
            user=session.user,
            csrf=session.csrf,
            notices=notices,
            failed=failed,
            error=error,
            typed=typed,
        )

    def problem(self, title: str, words: str) -> str:
        """Say what went wrong."""
        return self._render("problem.html", title=title, words=words)
