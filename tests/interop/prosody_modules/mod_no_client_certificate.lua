-- Test peer: as Webex does, we show no certificate of ours to the servers that we connect to.
local ssl = require "ssl";

local context = assert(ssl.newcontext({
	mode = "client";
	protocol = "any";
	options = { "no_sslv2", "no_sslv3" };
	cafile = module:get_option("ssl", {}).cafile;
	verify = { "peer" };
	verifyext = { "lsec_continue", "lsec_ignore_purpose" };
}));

-- Before mod_tls, which would take its own, with the host's certificate.
module:hook_tag("http://etherx.jabber.org/streams", "features", function (session)
	if session.type == "s2sout_unauthed" then session.ssl_ctx = context; end
end, 1000);
