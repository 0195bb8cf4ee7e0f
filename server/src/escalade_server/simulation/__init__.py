"""Many tasks at once on a virtual clock, over the very core and health that serve for real.

No event loop, no sleeping, no I/O: a seed makes a world, and the same seed makes the same run.
"""
