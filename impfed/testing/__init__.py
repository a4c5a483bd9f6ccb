"""Doubles that ship with impfed: clock, ids, links, peers."""
