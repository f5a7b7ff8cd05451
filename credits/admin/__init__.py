"""Admin pages. The ledger is shown, never edited; what is given goes through it."""

from credits.admin import accounts, alerts, licences

__all__ = ["accounts", "alerts", "licences"]
