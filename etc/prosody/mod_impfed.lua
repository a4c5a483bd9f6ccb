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
--   impfed_patience = 60                  -- seconds that stanzas wait for a node before messages bounce
--   impfed_keep = 20000                   -- stanzas that may wait for a node or its acknowledgement,
--   impfed_keep_octets = 33554432         -- and their octets; beyond, messages bounce
--
-- Stanzas are handed over like this: each gets a number (attribute n) and is kept until the node has
-- acknowledged it, <a xmlns='urn:xmpp:impfed:handover:0' n='1-56 58'/>.  What a connection took to its
-- grave goes again, in order and under the same number, to whoever connects next.  A component that
-- does not say in its greeting that it acknowledges gets the stanzas as mod_component hands them over.
--
-- A stanza of ours never goes out by S2S: with the component away for long, it is bounced.
--
-- MIT license, like the rest of impfed.  Written for Prosody 0.12.

local st = require "util.stanza";
local id = require "util.id";
local jid = require "util.jid";
local now = require "util.time".now;
local xml = require "util.xml";
local rostermanager = require "core.rostermanager";
local usermanager = require "core.usermanager";

local hosts = prosody.hosts;
local bare_sessions = prosody.bare_sessions;

local xmlns_directory = "urn:xmpp:impfed:directory:0";
local xmlns_roster = "urn:xmpp:impfed:roster:0";
local xmlns_handover = "urn:xmpp:impfed:handover:0";

if module:get_host_type() ~= "component" then
	error("mod_impfed belongs under modules_enabled of the Component that impfed connects to", 0);
end

local only = module:get_option_set("impfed_domains");
local except = module:get_option_set("impfed_except", {});
local patience = module:get_option_number("impfed_patience", 60);
local keep = module:get_option_number("impfed_keep", 20000);
local keep_octets = module:get_option_number("impfed_keep_octets", 32 * 1024 * 1024);

local carried_kinds = { message = true, presence = true, iq = true };

local function carries(domain)
	if except:contains(domain) then return false; end
	return not only or only:contains(domain);
end

-- What has been handed over, or is to be, by number: the stanza as text, and what becomes of it when
-- nobody comes for it: "bounce", "keep" or "drop".  (Texts, because Prosody changes and uses again the
-- tables that it has sent.)  Numbers below "first" are done; some above may be, too.
local queue, fates = {}, {};
local first, last = 1, 0;
local count, octets = 0, 0;
local queue_name = id.medium();  -- of this queue: numbers mean nothing without it

-- The connection: nil while there is none; "new" until it has said whether it acknowledges, "acks", "plain".
local session, mode;
local away = now();  -- when the last one went
local limit = math.huge;  -- octets that it takes in one stanza
local given_up = false;  -- nobody has come in time
local full = false;  -- what came last was too much
local stuck, stuck_times, stuck_since = 0, 0, 0;  -- the stanza that several connections broke at

local lasting = { subscribe = true, subscribed = true, unsubscribe = true, unsubscribed = true, probe = true };

local function fate_of(stanza)
	local kind, type = stanza.name, stanza.attr.type;
	if kind == "presence" then return lasting[type] and "keep" or "drop"; end
	if type == "error" or type == "result" then return "drop"; end
	return "bounce";
end

local function bounce(stanza, condition, words, type)
	if fate_of(stanza) == "drop" or stanza.name == "presence" and stanza.attr.type ~= "subscribe" then
		return;
	end
	local reply = st.error_reply(stanza, type or "wait", condition, words, module.host);
	local body = stanza.name == "message" and stanza:get_child("body");
	if body then reply:reset():add_direct_child(st.clone(body)); end
	module:send(reply);
end

local function forget(number)
	local text = queue[number];
	if not text then return; end
	queue[number], fates[number] = nil, nil;
	count, octets = count - 1, octets - #text;
	while first <= last and not queue[first] do first = first + 1; end
end

-- Take a stanza out of the queue and tell its sender.
local function give_back(number, condition, words)
	local stanza, problem = xml.parse(queue[number]);
	forget(number);
	if stanza then
		bounce(stanza, condition, words);
	else
		module:log("error", "cannot give a stanza back: %s", problem);
	end
end

local function send(number)
	local text = queue[number];
	local kind = text:match("^<(%a+)");
	session.send("<"..kind.." n='"..number.."'"..text:sub(#kind + 2));
end

-- The one place where a stanza passes to the component.
local function hand_over(stanza)
	local attr = stanza.attr;
	attr.xmlns, attr.n = nil, nil;
	local text, fate = tostring(stanza), fate_of(stanza);
	if #text > limit then
		bounce(stanza, "policy-violation", "the stanza is too long", "modify");
	elseif given_up and fate ~= "keep" then
		bounce(stanza, "remote-server-timeout", "the gateway is not connected");
	elseif count >= keep or octets + #text > keep_octets then
		if not full then
			module:log("warn", "%d stanzas of %d octets wait for the component: no more are taken", count, octets);
		end
		full = true;
		bounce(stanza, "resource-constraint", "too many messages are waiting");
	else
		full = false;
		last = last + 1;
		queue[last], fates[last] = text, fate;
		count, octets = count + 1, octets + #text;
		if mode == "acks" then
			session.send("<"..stanza.name.." n='"..last.."'"..text:sub(#stanza.name + 2));
		end
	end
	return true;
end

-- A node has come that acknowledges: first of all it gets what no other has acknowledged.
local function begin(octets_taken)
	mode, limit, given_up = "acks", octets_taken or math.huge, false;
	if count == 0 then return; end
	if stuck ~= first then
		stuck, stuck_times, stuck_since = first, 0, now();
	end
	stuck_times = stuck_times + 1;
	if stuck_times > 5 and now() - stuck_since > patience then
		module:log("error", "connections break again and again at one stanza, which is given back");
		give_back(first, "internal-server-error", "the gateway cannot take it");
	end
	module:log("info", "%d stanzas go to the component, now that it is connected", count);
	for number = first, last do
		if queue[number] then
			if #queue[number] > limit then
				give_back(number, "policy-violation", "the stanza is too long");
			else
				send(number);
			end
		end
	end
end

-- A component that knows nothing of numbers has come.
local function begin_plain()
	mode, given_up = "plain", false;
	module:log("info", "the component acknowledges nothing: what its connection holds when it breaks is lost");
	for number = first, last do
		if queue[number] then
			session.send(queue[number]);
			forget(number);
		end
	end
end

module:hook("stanza/"..xmlns_handover..":a", function (event)
	if event.origin ~= session then return true; end
	for from, to in (event.stanza.attr.n or ""):gmatch("(%d+)%-?(%d*)") do
		from, to = tonumber(from), math.min(tonumber(to) or tonumber(from), last);
		for number = math.max(from, first), to do forget(number); end
	end
	return true;
end);

-- What is for the component's own address passes here as well, but for answers to its own questions,
-- which are of no use to another connection, and questions that mod_component has answers to.
local function to_component(event)
	local stanza = event.stanza;
	stanza.attr.n = nil;
	if mode == "plain" then return; end
	local answer = stanza.attr.type == "result" or stanza.attr.type == "error";
	if stanza.name == "iq" and (answer or not session) then return; end
	return hand_over(stanza);
end

for kind in pairs(carried_kinds) do
	for _, to in ipairs({ "/bare", "/full", "/host" }) do module:hook(kind..to, to_component); end
end

module:hook("component-authenticated", function (event)
	session, mode, limit = event.session, "new", math.huge;
	local conn, data = session.conn, session.data;
	-- Small writes must not wait for the peer's acknowledgement, or one stanza can cost 40 ms.
	if conn and conn.setoption then
		conn:setoption("tcp-nodelay", true);
	end
	local connected = session;
	connected.impfed_heard = now();
	function connected.data(...) -- called with the connection, not with the session
		connected.impfed_heard = now();
		return data(...);
	end
end);

local function went(when)
	session, mode, away = nil, nil, when;
	if count > 0 then
		module:log("info", "the component has gone, %d stanzas wait for it", count);
	end
end

module:hook("component-disconnected", function (event)
	if event.session == session then went(now()); end
end);

-- Nobody has come: messages and questions go back to their senders, some at a time; presence that says
-- how somebody is has grown old, what asks for or answers something stays.
local function give_up()
	local done = 0;
	for number = first, last do
		local fate = fates[number];
		if fate == "bounce" then
			give_back(number, "remote-server-timeout", "the gateway is not connected");
			done = done + 1;
			if done == 500 then return; end
		elseif fate == "drop" then
			forget(number);
		end
	end
end

module:add_timer(1, function ()
	if not session then
		if now() - away >= patience then
			if not given_up then
				module:log("warn", "no component for %d s: messages bounce", patience);
			end
			given_up = true;
			give_up();
		end
	elseif mode == "new" and now() - session.impfed_heard >= 5 then
		begin_plain();
	elseif mode == "acks" and count > 0 and now() - session.impfed_heard >= patience then
		module:log("warn", "nothing heard of the component for %d s: its connection is given up", patience);
		local since = session.impfed_heard;
		session:close("connection-timeout");
		went(since);
	end
	return 1;
end);

-- This queue ends: senders are told while there is somebody to tell.  What a living connection has been
-- given arrives all the same.
local function end_queue()
	for number = first, last do
		if mode ~= "acks" and fates[number] == "bounce" then
			give_back(number, "remote-server-timeout", "the server is shutting down");
		end
	end
end

module:hook_global("server-stopping", end_queue);

function module.unload()
	if not module.reloading then end_queue(); end
end

function module.save()
	return { queue = queue, fates = fates, first = first, last = last, count = count, octets = octets,
		queue_name = queue_name, session = session, mode = mode, away = away, limit = limit, given_up = given_up };
end

function module.restore(old)
	if not old.queue then return; end  -- it was another version of this module
	queue, fates, first, last, count, octets = old.queue, old.fates, old.first, old.last, old.count, old.octets;
	queue_name, session, mode, away = old.queue_name, old.session, old.mode, old.away;
	limit, given_up = old.limit, old.given_up;
end

-- "route/remote" is fired on the sender's host for every stanza that no local host takes; mod_s2s
-- listens at priorities below zero.  Dialback elements come by here too and are none of ours.
local function route_remote(event)
	local stanza = event.stanza;
	if not carried_kinds[stanza.name] or stanza.attr.xmlns then return; end
	if not carries(event.to_host) then return; end
	if mode ~= "plain" then return hand_over(stanza); end
	module:fire_event(stanza.name.."/host", { origin = event.origin or hosts[event.from_host], stanza = stanza });
	return true;
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
		if query.attr.acknowledges then reply:tag("can", { name = xmlns_handover, queue = queue_name }):up(); end
		for name, host in pairs(hosts) do
			if host.type == "local" then
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
		if origin == session and mode == "new" and query.attr.xmlns == xmlns_directory then
			if query.attr.acknowledges then begin(tonumber(query.attr.limit)); else begin_plain(); end
		end
	end
	return true;
end, 100);

module:log("info", "carrying %s to %s", only and tostring(only) or "every foreign domain", module.host);
