"""Addresses of the credits API, below /api/v2/credits/."""

from django.urls import path

from credits.api import budgets, holds, views
from credits.api.transactions import Transactions

urlpatterns = [
    path("status", views.MyCreditStatus.as_view(), name="my-credit-status"),
    path("<uuid:user_id>/status", views.UserCreditStatus.as_view(), name="user-credit-status"),
    path("estimate", views.Estimate.as_view(), name="credit-estimate"),
    path("check", views.Check.as_view(), name="credit-check"),
    path("holds", holds.Holds.as_view(), name="credit-holds"),
    path("holds/<uuid:hold_id>", holds.HoldDetail.as_view(), name="credit-hold"),
    path("holds/<uuid:hold_id>/settle", holds.SettleHold.as_view(), name="settle-hold"),
    path("holds/<uuid:hold_id>/release", holds.ReleaseHold.as_view(), name="release-hold"),
    path("budgets", budgets.Budgets.as_view(), name="credit-budgets"),
    path("transactions", Transactions.as_view(), name="transactions"),
    path("grants", views.Grants.as_view(), name="credit-grants"),
    path("refunds", views.Refunds.as_view(), name="credit-refunds"),
]
