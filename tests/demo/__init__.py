"""Tests of the demo's far side: a referee has to notice what it is there to notice."""
