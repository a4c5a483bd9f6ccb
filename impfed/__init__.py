"""impfed: a federation gateway between XMPP home servers and SIP, Microsoft and XMPP partners."""

__version__ = "0.1.0"
