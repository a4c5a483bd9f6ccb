"""Benchmarks: impfed beside its peers, with the same load in the same run."""
