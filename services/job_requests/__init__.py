"""Requests of clients: the JSON Schema, error messages, plans, items and condition images."""
