"""Decides. Pure: events and a time in, commands out; no I/O, clock, chance, logging or awaiting."""
