"""What other apps may want to know of the lists."""

from django.dispatch import Signal

prices_entered = Signal()
"""Model prices were entered and are committed; sent with ``models``, their names or patterns."""

tiers_assigned = Signal()
"""Tiers were assigned, in the transaction that does it; sent with ``users``, those whose tier may
have become another (a queryset), and ``by``.
"""
