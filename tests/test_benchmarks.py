"""What benchmarks measure with fits the tables as they are."""

import pytest
from django.db import connection

from benchmarks.synthetic_history import fill, fill_directory
from usage.models import LangfuseConnection, Observation, Trace, UserUsageStats

pytestmark = pytest.mark.django_db


@pytest.mark.skipif(connection.vendor != "postgresql", reason="It is made by PostgreSQL's own SQL.")
def test_the_synthetic_history_can_be_stored() -> None:
    connection_row = LangfuseConnection.objects.create(name="bench", host="http://127.0.0.1:9")
    with connection.cursor() as cursor:
        fill_directory(cursor)
        fill(cursor, 300, connection_row.pk)
    assert (Trace.objects.count(), Observation.objects.count() > 100) == (300, True)
    assert UserUsageStats.objects.filter(granularity="month").exists()
