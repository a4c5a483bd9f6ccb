"""Makes ``twistd impfed`` known to twistd, and the built-in routes to the node."""

from twisted.application.service import ServiceMaker

from impfed.routing.plugins import BuiltInRoute

serviceMaker = ServiceMaker(
    "impfed",
    "impfed.tap",
    "Federation gateway between XMPP home servers and SIP, Microsoft and XMPP partners",
    "impfed",
)

local = BuiltInRoute("local", "impfed.routing.builtin.make_local")
neighbour = BuiltInRoute("neighbour", "impfed.routing.builtin.make_neighbour")
static = BuiltInRoute("static", "impfed.routing.builtin.make_static")
srv = BuiltInRoute("srv", "impfed.routing.builtin.make_srv")
openFederation = BuiltInRoute("open-federation", "impfed.routing.builtin.make_open_federation")
