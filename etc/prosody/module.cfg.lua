-- Prosody with mod_impfed: one component carries every foreign domain, subdomains included, and
-- impfed is told who exists.  In impfed.toml the home has kind = "prosody" and this address.
--
-- To be included after the VirtualHost sections of prosody.cfg.lua; mod_impfed.lua lies in a folder
-- named by plugin_paths.  In the global section of prosody.cfg.lua set
--
--   network_settings = { nagle = false }
--
-- for all of Prosody's other connections; for the component's own the module sees to it.

Component "federation.home.example"
	component_secret = "change me"
	modules_enabled = { "impfed" }

	-- The component speaks for foreign domains, not only for its own.
	validate_from_addresses = false

	-- A node that was cut off cannot keep the name: the new connection wins.
	component_conflict_resolve = "kick_old"

	-- Only these foreign domains (default: every one), and never those:
	-- impfed_domains = { "lync.example", "simple.example" }
	-- impfed_except = { "jabber.example" }

	-- What no node has safely yet is kept; without a node, messages bounce after so many seconds:
	-- impfed_patience = 60
	-- impfed_keep = 20000  -- stanzas
	-- impfed_keep_octets = 33554432
