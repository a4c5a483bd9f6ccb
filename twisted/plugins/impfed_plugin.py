"""Makes ``twistd impfed`` known to twistd."""

from twisted.application.service import ServiceMaker

serviceMaker = ServiceMaker(
    "impfed",
    "impfed.tap",
    "Federation gateway between XMPP home servers and SIP, Microsoft and XMPP partners",
    "impfed",
)
