"""Makes the embedded world out of pinned registry packages. `tools/build_world.py` runs it."""
