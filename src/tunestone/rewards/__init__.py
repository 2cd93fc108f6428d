"""Rewards: everything that turns a prompt and a completion into a grade; no torch in here."""
