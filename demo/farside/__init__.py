"""A Lync-style far side: a Microsoft edge with its users, as far as a federated peer can tell.

A program of its own on asyncio and ssl: it imports nothing from ``impfed``, so that a mistake in
the gateway's understanding of SIP cannot hide in a shared piece of code. It speaks the dialect
that Microsoft edges speak and refuses, loudly, what they refuse: each breach becomes a
``violation`` event on the control channel.

Modules, from the bottom: ``wire`` (messages and framing), ``dialect`` (what we write),
``rules`` (what we insist on), ``connections`` (TLS), ``edge`` (requests in and out),
``instant`` (IM sessions), ``presence`` (subscriptions), ``__main__`` (the control channel).
"""
