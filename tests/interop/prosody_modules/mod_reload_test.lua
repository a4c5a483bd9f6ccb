-- A component that reloads mod_impfed of the component that a message to it names.
local modulemanager = require "core.modulemanager";

module:hook("message/host", function (event)
	local ok, problem = modulemanager.reload(event.stanza:get_child_text("body"), "impfed");
	module:log("info", "reloaded: %s", ok and "yes" or problem);
	return true;
end);
