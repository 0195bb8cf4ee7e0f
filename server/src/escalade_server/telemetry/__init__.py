"""Watches: what happened becomes log lines. Neither blocks nor raises."""
