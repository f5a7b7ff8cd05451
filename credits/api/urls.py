"""Addresses of the credits API, below /api/v2/credits/."""

from django.urls import path

from credits.api import views

urlpatterns = [
    path("status", views.MyCreditStatus.as_view(), name="credit-status"),
    path("<uuid:user_id>/status", views.UserCreditStatus.as_view(), name="user-credit-status"),
]
