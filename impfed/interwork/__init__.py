"""Pure translation between SIP and XMPP: addresses, availability, PIDF, text, typing, errors."""
