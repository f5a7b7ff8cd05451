"""Accounts and the ledger, reservations, licences, alerts."""

from credits.models.accounts import Account, Grant, Transaction, UsageCharge
from credits.models.alerts import Alert, Delivery, TenantBudget, Webhook
from credits.models.holds import Hold
from credits.models.licences import Licence, LicenceEvent, LicencePool

__all__ = [
    "Account",
    "Alert",
    "Delivery",
    "Grant",
    "Hold",
    "Licence",
    "LicenceEvent",
    "LicencePool",
    "TenantBudget",
    "Transaction",
    "UsageCharge",
    "Webhook",
]
