"""The admin's pages for prices: entering, changing, importing, repricing, what if; and the page of
a run.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from pricing import lists
from pricing.models import IN_LIST, ModelPrice, PricingTier, TierAssignment, TierRate
from tests.conftest import LONG_AGO, NOON, People
from usage.models import Repricing, Trace

pytestmark = pytest.mark.django_db
PRICES = reverse("admin:pricing_modelprice_changelist")
D = Decimal


@pytest.fixture
def admin_client(people: People) -> Client:
    client = Client()
    client.force_login(people.platform_admin)
    return client


def filled(**fields: Any) -> dict[str, Any]:
    values = {
        "model": "m",
        "match": "exact",
        "precedence": "replaces",
        "valid_from_0": "2026-01-01",
        "valid_from_1": "00:00:00",
        "input": "2.5",
    }
    return {**values, **fields}


def errors_of(response: Any) -> str:
    return " ".join(
        message
        for messages in response.context["adminform"].form.errors.values()
        for message in messages
    )


def test_a_price_is_entered(admin_client: Client, people: People) -> None:
    response = admin_client.post(f"{PRICES}add/", filled())
    assert response.status_code == 302
    price = ModelPrice.objects.get()
    assert (price.input, price.recorded_by) == (D("2.5"), people.platform_admin)


def test_a_tenants_price_says_all_of_what_it_is_for(admin_client: Client, people: People) -> None:
    fields = filled(
        tenant=str(people.acme.pk),
        conditions="input>200000, service_tier=FLEX",
        request="1.50/one",
        web_search="10/thousand",
        other="0.01/one",
        other_units="tool_*",
    )
    assert admin_client.post(f"{PRICES}add/", fields).status_code == 302
    price = ModelPrice.objects.get()
    assert (price.tenant, price.conditions) == (people.acme, "service_tier=flex input>200000")
    assert (price.request, price.web_search, price.other) == (D(1_500_000), D(10_000), D(10_000))
    address = reverse("admin:pricing_modelprice_change", args=[price.pk])
    assert b'value="1500000"' in admin_client.get(address).content
    assert admin_client.post(address, fields | {"input": "3"}).status_code == 302
    changed = ModelPrice.objects.filter(IN_LIST).get()
    assert (changed.tenant, changed.input, changed.request) == (people.acme, D(3), D(1_500_000))
    # For other calls it is another price, at the same time.
    assert admin_client.post(f"{PRICES}add/", fields | {"conditions": ""}).status_code == 302
    assert ModelPrice.objects.filter(IN_LIST).count() == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"request": "5.01/one"}, "5010000 is too large: at most 5,000,000 is possible."),
        ({"request": "1/dozen"}, "“1/dozen”; write USD for a million units or for so many"),
        ({"conditions": "tier=flex"}, "“tier=flex” is no condition; write for example"),
        ({"other": "1"}, "Other units need both their names and a price"),
        ({"other_units": "x"}, "Other units need both their names and a price"),
        ({"input": "-1"}, "-1 is not possible: write 0 or a number above it."),
        ({"input": "abc"}, "Enter a number."),
        ({"input": ""}, "Write a price for at least one kind of unit"),
        ({"model": "m(", "match": "pattern"}, "“m(” is not a valid pattern"),
        (
            {"valid_from_0": "2026-02-01", "model": "taken"},
            "“taken” has a price from 2026-01-01 00:00 until 2026-06-01 00:00 already",
        ),
    ],
)
def test_what_is_no_price_is_refused_by_name(
    admin_client: Client, fields: dict[str, str], message: str
) -> None:
    june = NOON.replace(month=6, day=1, hour=0)
    lists.enter_price(
        ModelPrice(model="taken", valid_from=june.replace(month=1), valid_until=june, input=D(1)),
        None,
    )
    response = admin_client.post(f"{PRICES}add/", filled(**fields))
    assert response.status_code == 200
    assert message in errors_of(response)
    assert ModelPrice.objects.count() == 1


def test_a_changed_price_is_a_new_row_and_the_old_one_is_history(
    admin_client: Client, people: People
) -> None:
    old = lists.enter_price(ModelPrice(model="m", valid_from=LONG_AGO, input=D(1)), None)
    address = reverse("admin:pricing_modelprice_change", args=[old.pk])
    assert (
        admin_client.post(address, filled(input="3", valid_from_0="2020-01-01")).status_code == 302
    )
    old.refresh_from_db()
    assert (old.input, old.withdrawn_by) == (D(1), people.platform_admin)
    assert ModelPrice.objects.filter(IN_LIST).get().input == D(3)
    assert b"Current" in admin_client.get(PRICES).content
    assert admin_client.get(PRICES, {"list": "all"}).context["cl"].result_count == 2
    assert admin_client.get(PRICES, {"list": "withdrawn"}).context["cl"].result_count == 1
    assert admin_client.get(address).status_code == 200
    assert admin_client.post(address, filled(input="9")).status_code == 403, (
        "a withdrawn price is not changed"
    )


def test_a_hole_is_shown_before_it_is_saved(admin_client: Client) -> None:
    june = NOON.replace(month=6, day=1, hour=0)
    lists.enter_price(ModelPrice(model="m", valid_from=june, input=D(1)), None)
    fields = filled(valid_until_0="2026-03-01", valid_until_1="00:00:00")
    refused = admin_client.post(f"{PRICES}add/", fields)
    assert "no price of this list from 2026-03-01 00:00 until 2026-06-01 00:00" in errors_of(
        refused
    )
    assert admin_client.post(f"{PRICES}add/", fields | {"with_hole": "on"}).status_code == 302
    assert ModelPrice.objects.filter(IN_LIST).count() == 2


def test_several_prices_of_tenants_come_in_at_once(admin_client: Client, people: People) -> None:
    lines = [
        "tenant,model,valid_from,valid_until,input,request,conditions",
        "acme,m,2026-01-01,,1,,",
        "acme,m,2026-06-01,,2,1.50/one,",
        "acme,m,2026-06-01,,0.5/million,,processing=batch",
        "globex,m,2026-01-01,2026-02-01,3,,",
    ]
    file = SimpleUploadedFile("prices.csv", "\n".join(lines).encode())
    page = admin_client.post(f"{PRICES}import/", {"file": file}, follow=True)
    assert "4 prices entered, 0 replaced, 0 unchanged" in page.content.decode()
    listed = ModelPrice.objects.filter(IN_LIST, tenant=people.acme)
    assert sorted(
        (one.conditions, one.valid_from.month, one.input, one.request) for one in listed
    ) == [("", 1, D(1), None), ("", 6, D(2), D(1_500_000)), ("processing=batch", 6, D("0.5"), None)]
    out = b"".join(admin_client.get(f"{PRICES}export/"))
    again = admin_client.post(
        f"{PRICES}import/", {"file": SimpleUploadedFile("prices.csv", out)}, follow=True
    )
    assert "0 replaced, 4 unchanged" in again.content.decode()


def test_a_price_list_goes_out_and_in(admin_client: Client) -> None:
    lists.enter_price(ModelPrice(model="m", valid_from=LONG_AGO, input=D(1)), None)
    out = b"".join(admin_client.get(f"{PRICES}export/")).decode()
    assert out.splitlines()[1].startswith(",m,exact,replaces,2020-01-01T00:00:00Z,,1,")
    assert out.splitlines()[0].endswith(",other,other_units,conditions")
    file = SimpleUploadedFile("prices.csv", out.replace(",m,", ",n,").encode())
    assert admin_client.post(f"{PRICES}import/", {"file": file}).status_code == 302
    assert set(ModelPrice.objects.values_list("model", flat=True)) == {"m", "n"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"model,valid_from,input\nm,2026-01-01,-1\n", "Line 2: input: -1 is not possible"),
        (b"\xff\xfe\x00", "is not text in UTF-8"),
        (b"", "empty"),
    ],
)
def test_a_price_list_that_is_none_is_refused(
    admin_client: Client, content: bytes, problem: str
) -> None:
    response = admin_client.post(
        f"{PRICES}import/", {"file": SimpleUploadedFile("prices.csv", content)}
    )
    assert response.status_code == 200
    assert problem in response.content.decode()
    assert not ModelPrice.objects.exists()


def test_unpriced_usage_is_one_click_from_its_price(
    admin_client: Client,
    people: People,
    use: Callable[..., None],
    django_capture_on_commit_callbacks: Any,
) -> None:
    use(people.acme_user, None, model="acme-7b")
    page = admin_client.get(reverse("admin:usage_unpricedusage"))
    ((row, url),) = page.context["rows"]
    assert row.unpriced_observations == 1
    form = admin_client.get(url).context["adminform"].form
    assert (form.initial["model"], form.initial["precedence"], form.initial["valid_from"]) == (
        "acme-7b",
        "fallback",
        NOON.replace(hour=0),
    )
    with django_capture_on_commit_callbacks(execute=True):
        admin_client.post(
            f"{PRICES}add/",
            filled(
                model="acme-7b",
                precedence="fallback",
                valid_from_0="2026-11-10",
                input="1000",
                output="1000",
            ),
        )
    assert Trace.objects.get().credits == D("2.85")
    assert (
        b"All usage has a price." in admin_client.get(reverse("admin:usage_unpricedusage")).content
    )


def test_tiers_and_rates_are_kept_as_history(
    admin_client: Client, tiers: dict[str, PricingTier], people: People
) -> None:
    tier = tiers["Professional"]
    address = reverse("admin:pricing_pricingtier_change", args=[tier.pk])
    rows = {
        "name": "Professional",
        "default_credits": "1",
        "default_credits_per_month": "1",
        "rates-TOTAL_FORMS": "2",
        "rates-INITIAL_FORMS": "1",
        "rates-0-id": str(tier.rates.get().pk),
        "rates-0-tier": str(tier.pk),
        "rates-0-DELETE": "on",
        "rates-1-tier": str(tier.pk),
        "rates-1-valid_from_0": "2026-11-01",
        "rates-1-valid_from_1": "00:00:00",
        "rates-1-credits_per_usd": "300",
        "rates-1-pricing_multiplier": "0.9",
        "rates-1-grace_credits": "5",
    }
    response = admin_client.post(address, rows)
    assert response.status_code == 302, response.context and response.context["errors"]
    withdrawn, current = tier.rates.order_by("pk")
    assert (withdrawn.withdrawn_by, current.recorded_by, current.grace_credits) == (
        people.platform_admin,
        people.platform_admin,
        5,
    )
    for multiplier, message in (
        ("0", "0 is not possible: write a number above 0."),
        ("abc", "Enter a number."),
    ):
        refused = admin_client.post(
            address,
            {
                **rows,
                "rates-0-DELETE": "",
                "rates-INITIAL_FORMS": "0",
                "rates-1-pricing_multiplier": multiplier,
            },
        )
        assert message in refused.content.decode()
    assert TierRate.objects.filter(tier=tier).count() == 2


def test_a_tier_in_use_can_be_retired_and_not_deleted(
    admin_client: Client, tiers: dict[str, PricingTier], people: People
) -> None:
    assert (
        admin_client.post(
            reverse("admin:pricing_pricingtier_delete", args=[tiers["Professional"].pk]),
            {"post": "yes"},
        ).status_code
        == 403
    )
    assert (
        admin_client.post(
            reverse("admin:pricing_pricingtier_delete", args=[tiers["Starter"].pk]), {"post": "yes"}
        ).status_code
        == 302
    )
    chosen = {
        "action": "retire",
        "_selected_action": str(tiers["Professional"].pk),
        "confirmed": "yes",
    }
    admin_client.post(reverse("admin:pricing_pricingtier_changelist"), chosen)
    tiers["Professional"].refresh_from_db()
    assert tiers["Professional"].retired_at is not None
    again = admin_client.post(
        reverse("admin:pricing_tierassignment_add"),
        {
            "tier": str(tiers["Professional"].pk),
            "valid_from_0": "2099-01-01",
            "valid_from_1": "00:00:00",
            "user": str(people.globex_admin.pk),
        },
    )
    assert "“Professional” is retired" in errors_of(again)
    admin_client.post(
        reverse("admin:pricing_tierassignment_changelist"),
        {
            "action": "withdraw",
            "_selected_action": str(people.acme_user.tier_assignments.get().pk),
            "confirmed": "yes",
        },
    )
    assert TierAssignment.objects.get(user=people.acme_user).withdrawn_by == people.platform_admin


def test_repricing_is_shown_then_applied_then_undone(
    admin_client: Client, people: People, use: Callable[..., None]
) -> None:
    use(people.acme_user, "0.06")
    lists.enter_price(
        ModelPrice(model="gpt-4o", valid_from=LONG_AGO, input=D(1000), output=D(1000)), None
    )
    address, period = (
        reverse("admin:usage_repricing_add"),
        {"first_day": "2026-11-10", "last_day": "2026-11-10", "tenant": ""},
    )
    assert admin_client.get(address).status_code == 200
    shown = admin_client.get(address, period).content.decode()
    assert "−8.55" in shown
    assert Trace.objects.get().credits == D("11.4")
    assert (
        "Say why"
        in admin_client.post(address, {**period, "reason": " "}, follow=True).content.decode()
    )
    applied = admin_client.post(
        address, {**period, "reason": "Agreed"}, follow=True
    ).content.decode()
    assert "Agreed: applied." in applied
    repricing = Repricing.objects.get()
    assert (Trace.objects.get().credits, repricing.created_by) == (D("2.85"), people.platform_admin)
    assert (
        "so it can&#x27;t be stopped"
        in admin_client.post(
            f"{PREFIX}{repricing.pk}/stop/", {"confirmed": "yes"}, follow=True
        ).content.decode()
    )
    admin_client.post(f"{PREFIX}{repricing.pk}/undo/", {"confirmed": "yes"})
    assert Trace.objects.get().credits == D("11.4")


PREFIX = "/admin/usage/repricing/"


def test_from_a_trace_it_is_one_step_to_the_dry_run(
    admin_client: Client, people: People, use: Callable[..., None]
) -> None:
    use(people.acme_user, "0.06")
    chosen = {"action": "reprice_period", "_selected_action": str(Trace.objects.get().pk)}
    response = admin_client.post(reverse("admin:usage_trace_changelist"), chosen)
    assert response["Location"].endswith(
        "/repricing/add/?first_day=2026-11-10&last_day=2026-11-10&tenant="
    )


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"first_day": "2026-11-31", "last_day": "2026-11-30"}, "Enter a valid date."),
        (
            {"first_day": "2026-11-12", "last_day": "2026-11-11"},
            "2026-11-11 is before the first day, 2026-11-12.",
        ),
        (
            {"first_day": "2026-11-01", "last_day": "2026-11-30"},
            "Choose a tier, or write two models",
        ),
        (
            {"first_day": "2026-11-01", "last_day": "2026-11-30", "model": "a"},
            "Write both models, or neither.",
        ),
    ],
)
def test_an_impossible_question_is_refused(
    admin_client: Client, query: dict[str, str], message: str
) -> None:
    response = admin_client.get(reverse("admin:usage_whatif"), query)
    assert message in " ".join(
        text for texts in response.context["form"].errors.values() for text in texts
    )
    assert response.status_code == 200


def test_what_if_shows_each_tenant_side_by_side(
    admin_client: Client, people: People, tiers: dict[str, PricingTier], use: Callable[..., None]
) -> None:
    use(people.acme_user, "0.06")
    use(people.globex_user, "1")
    query = {
        "first_day": "2026-11-01",
        "last_day": "2026-11-30",
        "tiers": [tiers["Starter"].pk, tiers["Enterprise"].pk],
    }
    page = admin_client.get(reverse("admin:usage_whatif"), query)
    assert [
        (label, [totals.credits for totals in row.scenarios]) for label, row in page.context["rows"]
    ] == [
        ("Globex", [D(450), D(100)]),
        ("Acme", [D(27), D(6)]),
    ]
    text = page.content.decode()
    assert "Enterprise" in text
    assert "477" in text


@pytest.mark.parametrize(
    "name", ["admin:usage_unpricedusage", "admin:usage_whatif", "admin:usage_repricing_add"]
)
def test_these_pages_are_for_platform_admins(people: People, name: str) -> None:
    people.acme_admin.is_staff = True
    people.acme_admin.save()
    client = Client()
    client.force_login(people.acme_admin)
    assert client.get(reverse(name)).status_code == 403


@pytest.mark.parametrize(
    ("role", "status"),
    [
        ("platform_admin", 200),
        ("acme_admin", 200),
        ("acme_user", 200),
        ("acme_colleague", 403),
        ("globex_admin", 404),
        ("service", 403),
    ],
)
def test_a_runs_page_says_why_it_was_charged(
    people: People, use: Callable[..., None], role: str, status: int
) -> None:
    use(people.acme_user, "0.06")
    client = Client()
    client.force_login(getattr(people, role))
    response = client.get(reverse("trace", args=[Trace.objects.get().pk]))
    assert response.status_code == status
    if status == 200:
        assert "0.057 × 200 credits a dollar" in " ".join(
            response.content.decode().replace("$", "").split()
        )


def test_the_admin_explains_a_trace(
    admin_client: Client, people: People, use: Callable[..., None]
) -> None:
    use(people.acme_user, "0.06")
    text = admin_client.get(
        reverse("admin:usage_trace_change", args=[Trace.objects.get().pk])
    ).content.decode()
    assert "What each step cost" in text
    assert "11.4 credits" in text


def test_a_dashboard_lists_its_latest_runs(people: People, use: Callable[..., None]) -> None:
    use(people.acme_user, "0.06")
    client = Client()
    client.force_login(people.acme_admin)
    text = client.get("/tenants/acme/?start_date=2026-11-10&end_date=2026-11-10").content.decode()
    assert reverse("trace", args=[Trace.objects.get().pk]) in text
