"""Accounts, grants and the ledger (domain.md, Credits)."""
