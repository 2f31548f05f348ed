"""Benchmarks: what redirection costs, each figure beside its baseline from the same run."""
