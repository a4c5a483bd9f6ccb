-- Prosody without mod_impfed: one component for each foreign domain.  In impfed.toml the home has
-- kind = "component".  Nothing tells impfed who exists, so give it a file of users as well.
--
-- Subdomains of a foreign domain need a section of their own.  In the global section set
--
--   network_settings = { nagle = false }
--
-- or one stanza can wait 40 ms for the peer's acknowledgement.

Component "lync.example"
	component_secret = "change me"

	-- A node that was cut off cannot keep the name: the new connection wins.
	component_conflict_resolve = "kick_old"
