"""A whole installation in one process, on a made-up clock and network, from one seed.

Real nodes (:class:`impfed.service.Node`) run on :class:`~tests.simulation.loop.SimReactor`; home
server, partner, store and network are played. Nothing here waits: a thousand seconds pass as fast
as they can be computed, and the same seed gives the same run.
"""
