"""Answers: what a session's records say about why, where the time went, and what would help. Pure over ``Views``."""
