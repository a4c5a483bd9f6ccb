-- Test peer: whoever lives on this host answers each message with "echo: " and its body.
local st = require "util.stanza";

local function echo(event)
	local stanza = event.stanza;
	if stanza.attr.type == "error" then return true; end
	local body = stanza:get_child_text("body") or "";
	local id = stanza.attr.id;
	module:send(st.message({
		from = stanza.attr.to, to = stanza.attr.from, type = "chat", id = id;
	}, "echo: " .. body));
	return true;
end

module:hook("message/bare", echo, 100);
module:hook("message/full", echo, 100);
