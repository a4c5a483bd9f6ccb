"""The SIP core: URIs, messages, framing, transactions, dialogs, subscriptions. No IO, no reactor, no clock."""
