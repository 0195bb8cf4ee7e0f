"""Tells people what happens: once for each cause and window, through configured sinks only."""
