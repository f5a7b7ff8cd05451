"""How often a batch is tried that meets another worker's."""

import pytest
from django.db import IntegrityError, OperationalError

from kluisz_analytics.tenants.models import Tenant
from usage.facts.apply import CONFLICTS, FAILURES, Applied, committed

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("error", "tries"), [(IntegrityError, CONFLICTS), (OperationalError, FAILURES)]
)
def test_a_batch_is_tried_again_until_it_has_met_too_many(
    error: type[Exception], tries: int
) -> None:
    tried = 0

    def work(successful: int) -> Applied:
        nonlocal tried
        tried += 1
        Tenant.objects.create(name="Half done", slug="half-done")
        if tried < successful:
            raise error("met another")
        return Applied(traces_changed=tried)

    assert committed(lambda: work(tries)).traces_changed == tries
    assert Tenant.objects.filter(slug="half-done").count() == 1
    Tenant.objects.filter(slug="half-done").delete()
    tried = 0
    with pytest.raises(error, match="met another"):
        committed(lambda: work(tries + 1))
    assert tried == tries
    assert not Tenant.objects.filter(slug="half-done").exists()
