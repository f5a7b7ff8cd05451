"""The one place that writes the lists: model prices, tier rates and tier assignments (domain.md,
Price).

Nothing that was recorded is changed. What is replaced is withdrawn at the moment at which the new
row is recorded, so that every moment has one list, and what was priced with an old one stays
explained.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.forms.models import model_to_dict
from django.utils import timezone

from kluisz_analytics.bulk import among
from kluisz_analytics.tenants.models import User
from pricing.models import (
    IN_LIST,
    ModelAlias,
    ModelPrice,
    PricingTier,
    Recorded,
    TierAssignment,
    TierRate,
)
from pricing.signals import prices_entered, tiers_assigned


def enter_price(
    price: ModelPrice, by: User | None, replaces: ModelPrice | None = None
) -> ModelPrice:
    """Record a price as :func:`record_price` does, and have what waits for it priced once it is
    committed.
    """
    record_price(price, by, replaces)
    announce([price.model])
    return price


def announce(models: Sequence[str]) -> None:
    """Tell those who wait for prices of these models, once they are committed."""
    transaction.on_commit(lambda: prices_entered.send(ModelPrice, models=models))


def record_price(price: ModelPrice, by: User | None, replaces: ModelPrice | None = None) -> None:
    """Record a price (a row that is not saved), in place of ``replaces`` if that is given.

    One without an end holds until the next price of its list; one that goes on when this begins
    ends there, and goes on again where this ends. Raises ValidationError for what is no price, and
    for one that holds at the same time as another of its list.
    """
    price.full_clean(validate_constraints=False)
    try:
        with transaction.atomic():
            now = timezone.now()
            if replaces is not None:
                withdraw(replaces, by, now)
            until_next = _beginning_of_next(price) if price.valid_until is None else None
            _make_room(price, until_next, by, now)
            price.valid_until = price.valid_until or until_next
            _record(price, by, now)
    except IntegrityError as error:
        raise ValidationError(_overlap_message(price)) from error


def check_price(price: ModelPrice, replaces: ModelPrice | None = None) -> "Hole | None":
    """Whether :func:`record_price` would take it; raises ValidationError as that does, and records
    nothing. Returns the time after it in which no price of its list would hold, though it has
    others.
    """
    with transaction.atomic():
        entered = _copy(price)
        record_price(entered, None, replaces)
        hole = _hole_after(entered)
        transaction.set_rollback(True)
    if replaces is not None:
        replaces.refresh_from_db()
    return hole


class Hole(NamedTuple):
    """A time without a price, from when until when; None: without an end."""

    start: datetime
    end: datetime | None

    def __str__(self) -> str:
        until = "on" if self.end is None else f"until {self.end:%Y-%m-%d %H:%M}"
        return f"from {self.start:%Y-%m-%d %H:%M} {until}"


def _hole_after(price: ModelPrice) -> Hole | None:
    others, end = _same_list(price), price.valid_until
    if end is None or not others.exists() or others.filter(valid_from=end).exists():
        return None
    return Hole(end, _beginning_of_next(price))


def _same_list(price: ModelPrice) -> QuerySet[ModelPrice]:
    """The prices that may not hold at the same time as this one."""
    return ModelPrice.objects.filter(
        IN_LIST,
        tenant=price.tenant_id,
        model=price.model,
        match=price.match,
        precedence=price.precedence,
        conditions=price.conditions,
    ).exclude(pk=price.pk)


def _make_room(
    price: ModelPrice, until_next: datetime | None, by: User | None, now: datetime
) -> None:
    """End the price that is in force when this begins, if this can stand in its place: where it has
    no end, or where both go on until the next price. A temporary price stands inside another, which
    goes on where this ends.
    """
    in_force = Q(valid_until__isnull=True) | Q(valid_until__gt=price.valid_from)
    before = (
        _same_list(price)
        .filter(in_force, valid_from__lt=price.valid_from)
        .select_for_update()
        .first()
    )
    if before is None:
        return
    ends, end = before.valid_until, price.valid_until
    is_possible = ends is None or (ends == until_next if end is None else ends >= end)
    if not is_possible:
        return  # The database refuses the two.
    withdraw(before, by, now)
    _record(_copy(before, valid_until=price.valid_from), by, now)
    if end is not None and end != ends:
        _record(_copy(before, valid_from=end, valid_until=ends), by, now)


def _beginning_of_next(price: ModelPrice) -> datetime | None:
    following = (
        _same_list(price).filter(valid_from__gt=price.valid_from).order_by("valid_from").first()
    )
    return None if following is None else following.valid_from


def _overlap_message(price: ModelPrice) -> str:
    end = Q() if price.valid_until is None else Q(valid_from__lt=price.valid_until)
    other = (
        _same_list(price)
        .filter(end, Q(valid_until__isnull=True) | Q(valid_until__gt=price.valid_from))
        .first()
    )
    if other is None:
        return (
            f"The price of “{price.model}” contradicts what another has just entered; look at the"
            " list and try again."
        )
    until = f"until {other.valid_until:%Y-%m-%d %H:%M}" if other.valid_until else "on"
    return (
        f"“{price.model}” has a price from {other.valid_from:%Y-%m-%d %H:%M} {until} already"
        f" (number {other.pk}), and two can't hold at the same time: choose another beginning or"
        " end, or change that one."
    )


def enter_rate(rate: TierRate, by: User | None) -> TierRate:
    """Record a tier's rate (a row that is not saved); one with the same beginning is withdrawn.

    Raises ValidationError for what is no rate.
    """
    rate.full_clean(validate_constraints=False)
    with transaction.atomic():
        now = timezone.now()
        for same in TierRate.objects.filter(
            IN_LIST, tier=rate.tier_id, valid_from=rate.valid_from
        ).select_for_update():
            withdraw(same, by, now)
        _record(rate, by, now)
    return rate


def enter_alias(alias: ModelAlias, by: User | None) -> ModelAlias:
    """Record what a name means (a row that is not saved), and have what waits for a price priced
    once it is committed; one of the same name, connection and beginning is withdrawn.

    Raises ValidationError for what says nothing.
    """
    alias.full_clean(validate_constraints=False)
    with transaction.atomic():
        now = timezone.now()
        for same in ModelAlias.objects.filter(
            IN_LIST,
            connection=alias.connection_id,
            name__iexact=alias.name,
            valid_from=alias.valid_from,
        ).select_for_update():
            withdraw(same, by, now)
        _record(alias, by, now)
        announce([alias.name])
    return alias


def assign_tier(assignment: TierAssignment, by: User | None) -> TierAssignment:
    """Record an assignment (a row that is not saved); one of the same owner and beginning is
    withdrawn.

    Raises ValidationError for a retired tier, and for a user and a tenant at once.
    """
    assignment.full_clean(validate_constraints=False)
    with transaction.atomic():
        now = timezone.now()
        owner = {
            "user": assignment.user_id,
            "tenant": assignment.tenant_id,
            "valid_from": assignment.valid_from,
        }
        for same in TierAssignment.objects.filter(IN_LIST, **owner).select_for_update():
            withdraw(same, by, now)
        _record(assignment, by, now)
        tiers_assigned.send(TierAssignment, users=_users_of(assignment), by=by)
    return assignment


def _users_of(assignment: TierAssignment) -> QuerySet[User]:
    if assignment.user_id is not None:
        return User.objects.filter(pk=assignment.user_id)
    if assignment.tenant_id is not None:
        return User.objects.filter(tenant=assignment.tenant_id)
    return User.objects.all()


Wanted = Sequence[tuple[UUID, PricingTier, datetime]]


def assign_tiers_to_users(wanted: Wanted, by: User | None = None) -> int:
    """Make each (user, tier, valid from) so, in a handful of statements however many there are.

    Returns how many were news.
    """
    news = _assign_each("user", wanted, by)
    given = among('"user".id', (user_id.hex for user_id in news))
    tiers_assigned.send(TierAssignment, users=User.objects.filter(given), by=by)
    return len(news)


def assign_tiers_to_tenants(wanted: Wanted, by: User | None = None) -> int:
    """The same of tenants: what their users have by default."""
    news = _assign_each("tenant", wanted, by)
    tiers_assigned.send(TierAssignment, users=User.objects.filter(tenant__in=news), by=by)
    return len(news)


def _assign_each(of: Literal["user", "tenant"], wanted: Wanted, by: User | None) -> list[UUID]:
    """Whose assignments are news."""
    now = timezone.now()
    listed = {
        (owner_id, valid_from): (pk, tier_id)
        for pk, owner_id, valid_from, tier_id in TierAssignment.objects.filter(
            IN_LIST, **{f"{of}__isnull": False}
        ).values_list("pk", of, "valid_from", "tier_id")
    }
    news = {
        (owner_id, valid_from): tier
        for owner_id, tier, valid_from in wanted
        if listed.get((owner_id, valid_from), (0, 0))[1] != tier.pk
    }
    for tier in {tier for tier in news.values() if tier.retired_at is not None}:
        raise ValidationError(
            f"Tier “{tier.name}” is retired since {tier.retired_at:%Y-%m-%d}; choose another tier."
        )
    TierAssignment.objects.filter(pk__in=[listed[key][0] for key in news if key in listed]).update(
        withdrawn_at=now, withdrawn_by=by
    )
    TierAssignment.objects.bulk_create(
        [
            TierAssignment(
                tier=tier,
                valid_from=valid_from,
                recorded_at=now,
                recorded_by=by,
                **{f"{of}_id": owner_id},
            )
            for (owner_id, valid_from), tier in news.items()
        ],
        batch_size=2000,
    )
    return [owner_id for owner_id, _ in news]


def withdraw(row: Recorded, by: User | None, at: datetime | None = None) -> None:
    """Take a row out of its list: nothing new is priced with it.

    What was priced with it stays, until that is repriced.
    """
    row.withdrawn_at, row.withdrawn_by = at or timezone.now(), by
    row.save(update_fields=["withdrawn_at", "withdrawn_by"])


def _record(row: Recorded, by: User | None, now: datetime) -> None:
    row.pk, row.recorded_at, row.recorded_by, row.withdrawn_at, row.withdrawn_by = (
        None,
        now,
        by,
        None,
        None,
    )
    row._state.adding = True
    row.save(force_insert=True)


def _copy(price: ModelPrice, **changes: Any) -> ModelPrice:
    return ModelPrice(**{**_values(price), **changes})


def _values(price: ModelPrice) -> dict[str, Any]:
    """What a price says, without who recorded it and when."""
    values = model_to_dict(price, exclude=["id", "tenant"])
    return {**values, "tenant_id": price.tenant_id}


def same_price(one: ModelPrice, other: ModelPrice) -> bool:
    """Whether two prices say the same."""
    return _values(one) == _values(other)


def retire_tiers(tiers: Iterable[PricingTier]) -> int:
    """From now on the tiers are given to nobody anew. Returns how many were not retired before."""
    return PricingTier.objects.filter(
        pk__in=[tier.pk for tier in tiers], retired_at__isnull=True
    ).update(retired_at=timezone.now())
