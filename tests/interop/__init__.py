"""Tests against real servers and independent peers."""
