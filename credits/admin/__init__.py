"""Admin pages. The ledger is shown, never edited; what is given goes through it."""

from credits.admin import accounts, alerts, licenses

__all__ = ["accounts", "alerts", "licenses"]
