"""Measures that several protocols share: ranks, intervals, results."""
