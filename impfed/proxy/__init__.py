"""The stateful proxy (RFC 3261 section 16): requests for users whose home is another node; no IO."""
