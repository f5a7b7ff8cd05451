"""What the pages of repricings and rulings have in common: stopped, continued and undone on the
row's own page.
"""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest

from kluisz_analytics.admin_pages import ReadOnlyAdmin
from kluisz_analytics.confirmation import confirmed_page
from usage.facts import rework
from usage.models.rework import Rework

SECONDS_A_REQUEST = 15


class ReworkAdmin(ReadOnlyAdmin):
    actions_detail = ["stop", "resume", "undo"]

    def advance(self, row: Any, seconds: float) -> None:
        """Do what is left of the row's work, for so many seconds."""
        raise NotImplementedError

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """It moves money: platform admins only."""
        return bool(request.user.is_superuser)

    def has_move_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.is_superuser)

    @confirmed_page(
        "Stop",
        "Stop it? What is done stays done; it can be continued or undone.",
        url_path="stop",
        permission="move",
    )
    def stop(self, request: HttpRequest, row: Rework) -> None:
        rework.stop(row)
        self.go_on(request, row)

    @confirmed_page(
        "Continue",
        "Continue it? Its adjustments are posted.",
        url_path="continue",
        permission="move",
    )
    def resume(self, request: HttpRequest, row: Rework) -> None:
        rework.resume(row)
        self.go_on(request, row)

    @confirmed_page(
        "Undo",
        "Undo it? Its traces are billed as before; that is posted as adjustments.",
        url_path="undo",
        permission="move",
    )
    def undo(self, request: HttpRequest, row: Rework) -> None:
        rework.undo(row)
        self.go_on(request, row)

    def go_on(self, request: HttpRequest, row: Rework) -> None:
        """Work for a while, and say how far it came."""
        self.advance(row, SECONDS_A_REQUEST)
        if row.state in row.UNDER_WAY:
            messages.info(
                request,
                f"{row.traces_done:,} traces are done; the worker goes on with the rest every"
                " minute.",
            )
        else:
            messages.success(request, f"{row}: {row.get_state_display().lower()}.")
