"""Many rows at once."""

import pytest
from django.db import IntegrityError, connection, transaction

from kluisz_analytics.bulk import insert_rows


@pytest.mark.django_db
def test_a_row_that_breaks_a_constraint_is_djangos_integrity_error_on_both_databases() -> None:
    """Whoever tries again after another worker was faster catches that one, and COPY would raise the driver's own."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE numbers (number integer PRIMARY KEY)")
        insert_rows(cursor, "numbers", ["number"], [(1,), (2,)])
        with pytest.raises(IntegrityError), transaction.atomic():
            insert_rows(cursor, "numbers", ["number"], [(3,), (2,)])
        cursor.execute("SELECT COUNT(*) FROM numbers")
        assert cursor.fetchone() == (2,)
