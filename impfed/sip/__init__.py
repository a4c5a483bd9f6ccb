"""The SIP core: URIs, messages, framing, transactions, dialogs.  No IO, no clock."""
