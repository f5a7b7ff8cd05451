"""Many rows at once."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from django.db import IntegrityError, connection, models, transaction

from kluisz_analytics.bulk import insert_rows, moment_of, stamp, stamps


@pytest.mark.django_db
def test_a_row_that_breaks_a_constraint_is_djangos_integrity_error_on_both_databases() -> None:
    """Whoever tries again after another worker was faster catches that one, and COPY would raise
    the driver's own.
    """
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE numbers (number integer PRIMARY KEY)")
        insert_rows(cursor, "numbers", ["number"], [(1,), (2,)])
        with pytest.raises(IntegrityError), transaction.atomic():
            insert_rows(cursor, "numbers", ["number"], [(3,), (2,)])
        cursor.execute("SELECT COUNT(*) FROM numbers")
        assert cursor.fetchone() == (2,)


def test_times_are_written_alike_one_by_one_and_together() -> None:
    moments = [
        datetime(2026, 11, 30, 12, tzinfo=UTC),
        datetime(2026, 11, 30, 12, 0, 0, 250_000, tzinfo=UTC),
    ]
    assert stamps([*moments, None]) == [*map(stamp, moments), None]
    assert stamp(moments[1].astimezone(ZoneInfo("Asia/Kolkata"))) == stamps(moments)[1]


@pytest.mark.django_db
def test_a_time_is_read_as_it_was_written() -> None:
    moment = datetime(2026, 11, 30, 17, 30, 0, 250_000, tzinfo=ZoneInfo("Asia/Kolkata"))
    with connection.cursor() as cursor:
        kind = models.DateTimeField().db_type(connection)
        cursor.execute(f"CREATE TEMPORARY TABLE moments (moment {kind})")
        insert_rows(cursor, "moments", ["moment"], [(stamp(moment),)])
        cursor.execute("SELECT moment FROM moments")
        assert moment_of(cursor.fetchone()[0]) == moment
