"""A model of nearfar as other libraries' benchmarks take it."""
