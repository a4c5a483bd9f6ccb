-- Test peer: whoever lives on this host answers each message with "echo: " and its body. An
-- identifier of two addresses, "from to", has the message sent between those instead. What comes
-- back as an error is logged: "returned from DOMAIN: CONDITION: TEXT".
local jid = require "util.jid";
local st = require "util.stanza";

local function echo(event)
	local stanza = event.stanza;
	if stanza.attr.type == "error" then
		local _, condition, text = stanza:get_error();
		local domain = jid.host(stanza.attr.from);
		module:log("info", "returned from %s: %s: %s", domain, condition, text or "");
		return true;
	end
	local body = stanza:get_child_text("body") or "";
	local id = stanza.attr.id;
	local from, to = (id or ""):match("^(%S+) (%S+)$");
	if from then
		module:send(st.message({ from = from, to = to, type = "chat", id = "ordered" }, body));
		return true;
	end
	module:send(st.message({
		from = stanza.attr.to, to = stanza.attr.from, type = "chat", id = id;
	}, "echo: " .. body));
	return true;
end

module:hook("message/bare", echo, 100);
module:hook("message/full", echo, 100);
