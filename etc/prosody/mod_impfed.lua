-- mod_impfed: feeds one XEP-0114 component with the stanzas for every foreign domain, answers the
-- component's question "does this user exist?", and writes rosters of local users when it asks.
--
-- To be enabled on the component itself (see module.cfg.lua beside this file):
--
--   Component "federation.home.example"
--     component_secret = "..."
--     modules_enabled = { "impfed" }
--     validate_from_addresses = false     -- it speaks for all foreign domains
--     component_conflict_resolve = "kick_old"
--
-- Options, all on the component:
--   impfed_domains = { "lync.example" }   -- carry only these foreign domains; default: every one
--   impfed_except = { "jabber.example" }  -- but never these: they go out by S2S as without the module
--
-- A stanza of ours never goes out by S2S: with the component away, it is bounced by mod_component.
--
-- MIT license, like the rest of impfed.  Written for Prosody 0.12.

local st = require "util.stanza";
local jid = require "util.jid";
local rostermanager = require "core.rostermanager";
local usermanager = require "core.usermanager";

local hosts = prosody.hosts;
local bare_sessions = prosody.bare_sessions;

local xmlns_directory = "urn:xmpp:impfed:directory:0";
local xmlns_roster = "urn:xmpp:impfed:roster:0";

if module:get_host_type() ~= "component" then
	error("mod_impfed belongs under modules_enabled of the Component that impfed connects to", 0);
end

local only = module:get_option_set("impfed_domains");
local except = module:get_option_set("impfed_except", {});

local carried_kinds = { message = true, presence = true, iq = true };

local function carries(domain)
	if except:contains(domain) then return false; end
	return not only or only:contains(domain);
end

-- The one place where a stanza passes to the component.  mod_component sends it down the stream with
-- its addresses as they are, or bounces it while nobody is connected.  (Whoever adds acknowledged
-- hand-over numbers and keeps stanzas here.)
local function hand_over(origin, stanza)
	module:log("debug", "to the component: %s", stanza:top_tag());
	module:fire_event(stanza.name.."/host", { origin = origin, stanza = stanza });
	return true;
end

-- "route/remote" is fired on the sender's host for every stanza that no local host takes; mod_s2s
-- listens at priorities below zero.  Dialback elements come by here too and are none of ours.
local function route_remote(event)
	local stanza = event.stanza;
	if not carried_kinds[stanza.name] or stanza.attr.xmlns then return; end
	if not carries(event.to_host) then return; end
	return hand_over(event.origin or hosts[event.from_host], stanza);
end

local watched = {};

local function watch_host(name)
	local host = hosts[name];
	if not host or watched[host] then return; end
	watched[host] = true;
	module:hook_object_event(host.events, "route/remote", route_remote, 100);
end

for name in pairs(hosts) do watch_host(name); end
module:hook_global("host-activated", watch_host);

-- Small writes must not wait for the peer's acknowledgement, or one stanza can cost 40 ms.
module:hook("component-authenticated", function (event)
	local conn = event.session.conn;
	if conn and conn.setoption then
		conn:setoption("tcp-nodelay", true);
	end
end);

-- What the component may ask of us: handlers by type and namespace, each (origin, stanza, query) -> reply.
local questions = {};

local function user_state(address)
	local node, host, resource = jid.prepped_split(address or "");
	local session = host and hosts[host];
	if not node or resource or not session or session.type ~= "local" then return "unknown"; end
	if bare_sessions[node.."@"..host] then return "exists"; end
	local ok, exists = pcall(usermanager.user_exists, node, host);
	if not ok then
		module:log("warn", "cannot tell whether %s exists: %s", address, exists);
		return "unknown";
	end
	return exists and "exists" or "absent";
end

questions["get "..xmlns_directory] = function (_, stanza, query)
	local reply = st.reply(stanza):tag("query", { xmlns = xmlns_directory });
	if #query.tags == 0 then
		reply:tag("can", { name = xmlns_roster }):up();
		for name, session in pairs(hosts) do
			if session.type == "local" then
				reply:tag("host", { name = name }):up();
			elseif name ~= module.host then
				reply:tag("host", { name = name, kind = "service" }):up();  -- rooms, say
			end
		end
	end
	for user in query:childtags("user") do
		reply:tag("user", { jid = user.attr.jid, state = user_state(user.attr.jid) }):up();
	end
	return reply;
end

-- What is done to a roster, each (node, host, contact, name) -> words if it failed.  The presence part
-- is left to mod_presence: it gets the stanza that the user's own client would have sent, and then
-- keeps the states, pushes to his clients and tells the contact, as RFC 6121 says.

local function as_user(node, host, contact, type)
	local stanza = st.presence({ type = type, from = node.."@"..host, to = contact });
	prosody.core_post_stanza(hosts[host], stanza, true);
end

local function save(node, host, roster, contact)
	if not rostermanager.save_roster(node, host, roster, contact) then
		return "the roster could not be saved";
	end
	rostermanager.roster_push(node, host, contact);
end

local deeds = {};

-- The contact may see the user's presence; nobody is asked, and nothing need have been requested.
function deeds.approve(node, host, contact)
	if rostermanager.is_contact_subscribed(node, host, contact) then return; end
	if not rostermanager.is_contact_pending_in(node, host, contact)
	   and not rostermanager.set_contact_pending_in(node, host, contact) then
		return "the roster could not be saved";
	end
	as_user(node, host, contact, "subscribed");
	if not rostermanager.is_contact_subscribed(node, host, contact) then
		return "the approval was not taken";
	end
end

-- The contact may not see the user's presence any more, or his request is declined.
function deeds.cancel(node, host, contact)
	as_user(node, host, contact, "unsubscribed");
end

-- The contact is on the roster under this name, and the user asks to see his presence.
function deeds.add(node, host, contact, name)
	local roster = rostermanager.load_roster(node, host);
	local item = roster[contact] or { subscription = "none", groups = {} };
	item.name = name or item.name;
	roster[contact] = item;
	local failed = save(node, host, roster, contact);
	if failed then return failed; end
	if not rostermanager.is_user_subscribed(node, host, contact) then
		as_user(node, host, contact, "subscribe");
	end
end

-- The contact is off the roster; neither sees the other's presence.
function deeds.remove(node, host, contact)
	local roster = rostermanager.load_roster(node, host);
	local item = roster[contact];
	as_user(node, host, contact, "unsubscribed");
	if not item then return; end
	if item.ask or item.subscription == "to" or item.subscription == "both" then
		as_user(node, host, contact, "unsubscribe");
	end
	roster[contact] = nil;
	return save(node, host, roster, contact);
end

local function write_roster(deed)
	local user, contact = deed.attr.user or "", deed.attr.contact or "";
	local act = deeds[deed.name];
	if not act then return "unknown request"; end
	if user_state(user) ~= "exists" then return "no such local user"; end
	local contact_node, domain, resource = jid.prepped_split(contact);
	if not contact_node or resource or hosts[domain] or not carries(domain) then
		return "not a user of a foreign domain that is carried";
	end
	local node, host = jid.prepped_split(user);
	local ok, failed = pcall(act, node, host, contact_node.."@"..domain, deed.attr.name);
	if ok then return failed; end
	module:log("error", "cannot %s %s for %s: %s", deed.name, contact, user, failed);
	return "a fault in the home server, see its log";
end

questions["set "..xmlns_roster] = function (_, stanza, query)
	local reply = st.reply(stanza):tag("query", { xmlns = xmlns_roster });
	for deed in query:childtags() do
		local failed = write_roster(deed);
		module:log("info", "%s %s for %s: %s", deed.name, deed.attr.contact, deed.attr.user, failed or "done");
		reply:tag(deed.name, {
			user = deed.attr.user, contact = deed.attr.contact, state = failed and "refused" or "done",
		}):text(failed or ""):up();
	end
	return reply;
end

module:hook("iq/host", function (event)
	local origin, stanza = event.origin, event.stanza;
	local query = stanza.tags[1];
	if not query or stanza.attr.to ~= module.host then return; end
	local answer = questions[(stanza.attr.type or "").." "..(query.attr.xmlns or "")];
	if not answer then return; end
	if origin.type ~= "component" or origin.host ~= module.host then
		origin.send(st.error_reply(stanza, "auth", "forbidden"));
	else
		origin.send(answer(origin, stanza, query));
	end
	return true;
end, 100);

module:log("info", "carrying %s to %s", only and tostring(only) or "every foreign domain", module.host);
