"""Accounts and the ledger, reservations, licenses, alerts."""

from credits.models.accounts import Account, Grant, HourCut, Transaction, UsageCharge
from credits.models.alerts import Alert, Delivery, TenantBudget, Webhook
from credits.models.holds import Hold
from credits.models.licenses import License, LicenseEvent, LicensePool

__all__ = [
    "Account",
    "Alert",
    "Delivery",
    "Grant",
    "Hold",
    "HourCut",
    "License",
    "LicenseEvent",
    "LicensePool",
    "TenantBudget",
    "Transaction",
    "UsageCharge",
    "Webhook",
]
