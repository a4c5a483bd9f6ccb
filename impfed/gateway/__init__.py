"""SIP ⇄ XMPP: instant message sessions and presence, both ways."""
