"""Transactions; publishes what was paid."""
