"""Messy orders and invoices to JSON."""
