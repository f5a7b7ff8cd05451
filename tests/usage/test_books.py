"""What verify_books finds that no constraint of the database refuses."""

from collections.abc import Callable
from uuid import uuid4

import pytest

from tests.conftest import People
from usage.books import verify_books
from usage.models import Trace

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("column", ["connection_id", "tenant_id", "user_id"])
def test_the_books_show_a_trace_that_names_what_does_not_exist(people: People, use: Callable[..., None], column: str) -> None:
    use(people.acme_user)
    assert verify_books() == []
    Trace.objects.update(**{column: 987_654 if column == "connection_id" else uuid4()})
    assert "facts: what a trace names exists" in [finding.check for finding in verify_books()]


def test_the_books_show_a_trace_that_names_another_model_than_its_usage(people: People, use: Callable[..., None]) -> None:
    use(people.acme_user)
    for model in ("another", None):
        Trace.objects.update(model=model)
        assert [finding.check for finding in verify_books()][:1] == ["facts: a trace names the model of its usage"]
