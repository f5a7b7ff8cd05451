"""What other apps may want to know of the lists."""

from django.dispatch import Signal

prices_entered = Signal()
"""Model prices were entered and are committed; sent with ``models``, their names or patterns."""
