"""The XMPP core: JIDs, stanzas, stream reading, negotiation. No IO."""
