"""Makes an API token."""

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from kluisz_analytics.tenants.models import ApiToken, User

DEFAULT_DAYS = 90
MOST_DAYS = 3650


class Command(BaseCommand):
    help = "Prints a new API token for a user, once; only its hash is stored."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("username")
        scopes = "; ".join(f"{one.value}: {one.label.lower()}" for one in ApiToken.Scope)
        parser.add_argument(
            "--scope",
            choices=ApiToken.Scope.values,
            default=ApiToken.Scope.READ.value,
            help=f"what it may be used for, as far as its user may ({scopes}; default read)",
        )
        parser.add_argument(
            "--days",
            type=int,
            default=DEFAULT_DAYS,
            help=f"how long it is valid (default {DEFAULT_DAYS})",
        )
        parser.add_argument("--name", default="", help="what it is for")

    def handle(self, *args: Any, **options: Any) -> None:
        if not 1 <= options["days"] <= MOST_DAYS:
            raise CommandError(f"--days {options['days']} is out of range; write 1 to {MOST_DAYS}.")
        user = User.objects.filter(username=options["username"], is_active=True).first()
        if user is None:
            raise CommandError(f"There is no active user “{options['username']}”.")
        _, token = ApiToken.objects.create(
            user, timedelta(days=options["days"]), scope=options["scope"], name=options["name"]
        )
        self.stdout.write(token)
