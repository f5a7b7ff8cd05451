"""Answers follow from the dataclasses that they show: what those declare is not written twice."""

from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime
from enum import Enum
from itertools import chain
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from rest_framework import serializers

from kluisz_analytics.scales import CREDIT_PLACES, USD_PLACES, Written

AnyField = serializers.Field[Any, Any, Any, Any]


class UsdField(serializers.DecimalField):
    """USD as a decimal string with twelve places."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_digits=None, decimal_places=USD_PLACES, **kwargs)


class CreditsField(serializers.DecimalField):
    """Credits as a decimal string with six places."""

    def __init__(self, **kwargs: Any) -> None:
        # What is taken has a limit of digits: beyond the precision of decimals it could not even be
        # compared.
        super().__init__(
            max_digits=18 if "max_value" in kwargs else None, decimal_places=CREDIT_PLACES, **kwargs
        )


class Answer(serializers.Serializer[Any]):
    """What a dataclass or a NamedTuple declares, as an answer.

    ``shows`` is that class. Each of its fields is answered, but for those in ``leaves_out``; one
    that the answer declares itself is answered so. What an answer adds comes before what it shows.
    Its description is the class's, unless it has its own.
    """

    shows: ClassVar[type]
    leaves_out: ClassVar[Sequence[str]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        made: dict[str, AnyField] = {}
        if "shows" in vars(cls):
            made = fields_of(cls.shows, {*cls.leaves_out, *cls._declared_fields})
            cls.__doc__ = cls.__doc__ or cls.shows.__doc__
            ANSWERS[cls.shows] = cls
        shown = [vars(one)["shows"] for one in cls.__mro__ if "shows" in vars(one)]
        place = {name: place for place, name in enumerate(chain(*map(get_type_hints, shown)))}
        cls._declared_fields = dict(
            sorted(
                [*made.items(), *cls._declared_fields.items()],
                key=lambda field: place.get(field[0], -1),
            )
        )


ANSWERS: dict[type, type[Answer]] = {}
"""The answer that shows each class, wherever one is part of another."""


def fields_of(shown: type, without: Collection[str]) -> dict[str, AnyField]:
    """A field for each of the class's. Raises TypeError for a type that says too little."""
    kinds = get_type_hints(shown, include_extras=True)
    return {name: field_of(kind) for name, kind in kinds.items() if name not in without}


def field_of(kind: Any, **options: Any) -> AnyField:
    """The field that answers values of this type."""
    origin, of = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType) and len(of) == 2 and NoneType in of:
        return field_of(next(one for one in of if one is not NoneType), allow_null=True)
    if origin is Annotated and isinstance(of[1], Written):
        return _decimal_field(of[1], **options)
    if origin is Literal:
        return serializers.ChoiceField(choices=list(of), **options)
    if origin in (dict, Mapping):
        return serializers.DictField(child=field_of(of[1]), **options)
    if origin in (list, Sequence) and of[0] in ANSWERS:
        return ANSWERS[of[0]](many=True, **options)
    if kind in ANSWERS:
        return ANSWERS[kind](**options)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return serializers.ChoiceField(choices=[one.value for one in kind], **options)
    if kind in PLAIN_FIELDS:
        return PLAIN_FIELDS[kind](**options)
    raise TypeError(
        f"How is {kind} answered? Of a decimal, say its places (Usd, Credits); of a class, write"
        " the answer that shows it first; anything else, declare in the answer or leave out."
    )


def _decimal_field(written: Written, **options: Any) -> AnyField:
    """Decimal text; of what is not rounded, with all the decimals that say something.

    ``max_digits`` is what DRF counts with: of 24 decimals, Python's own 28 digits leave four before
    the point, and a run of 10,000 credits would be an error.
    """
    return serializers.DecimalField(
        max_digits=None if written.is_rounded else 60,
        decimal_places=written.places,
        normalize_output=not written.is_rounded,
        **options,
    )


PLAIN_FIELDS: Mapping[Any, type[AnyField]] = {
    bool: serializers.BooleanField,
    int: serializers.IntegerField,
    float: serializers.FloatField,
    str: serializers.CharField,
    UUID: serializers.UUIDField,
    date: serializers.DateField,
    datetime: serializers.DateTimeField,
}
