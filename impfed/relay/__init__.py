"""XMPP ⇄ XMPP: stanzas between home links and S2S, untouched but for policy and presence."""
