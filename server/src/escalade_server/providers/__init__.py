"""Outbound. One module per wire dialect, not per vendor; one file touches HTTP."""
