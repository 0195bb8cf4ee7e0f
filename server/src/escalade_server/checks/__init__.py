"""Checks of answers: the quality gates that need more than a look at a field (R21)."""
