"""Pure translation between the SIP and the XMPP world: addresses, availability, text, errors."""
