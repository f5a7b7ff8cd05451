"""Which names each scope may read: of users, tenants, projects and flows, own and foreign."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from kluisz_analytics.tenants.models import Flow, Project, User
from tests.conftest import People
from usage.analytics.names import (
    NO_NAME,
    OWNER_PATHS,
    Name,
    flows_by_id,
    name_of_person,
    names_of,
    owner_in,
    owner_of,
    projects_by_id,
    tenants_by_id,
    users_by_id,
)
from usage.measures import Dimension
from usage.models import Trace
from usage.scope import Scope

pytestmark = pytest.mark.django_db
UNKNOWN = uuid.UUID("00000000-0000-4000-8000-000000000000")


@dataclass
class Directory:
    """Everybody by a name, Mia among them, who has moved from Acme to Globex."""

    ids: dict[str, Any]

    def scope(self, tenant: str = "", user: str = "") -> Scope:
        return Scope(
            tenant_id=self.ids[tenant] if tenant else None,
            user_id=self.ids[user] if user else None,
        )

    def called(self, ids: Any) -> set[str]:
        names = {str(key): name for name, key in self.ids.items()}
        return {names[str(key)] for key in ids}


@pytest.fixture
def directory(people: People) -> Directory:
    mia = User.objects.create_user("mia", tenant=people.acme)
    mia.tenant = people.globex
    mia.save()
    sales = Project.objects.create(name="Sales", tenant=people.globex)
    leads = Flow.objects.create(name="Leads", project=sales)
    return Directory(
        {
            "acme": people.acme.pk,
            "globex": people.globex.pk,
            "ann": people.acme_user.pk,
            "bob": people.acme_colleague.pk,
            "gus": people.globex_user.pk,
            "mia": mia.pk,
            "Care": people.project.pk,
            "Sales": sales.pk,
            "Triage": people.flow.pk,
            "Leads": leads.pk,
        }
    )


#         scope                      users            tenants        projects      flows
SCOPES = [
    ({}, "ann bob gus mia", "acme globex", "Care Sales", "Triage Leads"),
    ({"tenant": "acme"}, "ann bob mia", "acme", "Care", "Triage"),
    ({"tenant": "globex"}, "gus mia", "globex", "Sales", "Leads"),
    ({"user": "ann"}, "ann", "acme", "Care", "Triage"),
    ({"user": "gus"}, "gus", "globex", "Sales", "Leads"),
    ({"user": "mia"}, "mia", "acme globex", "Sales", "Leads"),
    ({"tenant": "acme", "user": "ann"}, "ann", "acme", "Care", "Triage"),
    ({"tenant": "acme", "user": "mia"}, "mia", "acme", "Care", "Triage"),
    ({"tenant": "acme", "user": "gus"}, "", "acme", "Care", "Triage"),
]


@pytest.mark.parametrize(("scope", "users", "tenants", "projects", "flows"), SCOPES)
def test_each_scope_reads_the_names_of_its_own(
    directory: Directory,
    scope: dict[str, str],
    users: str,
    tenants: str,
    projects: str,
    flows: str,
) -> None:
    asked, ids = directory.scope(**scope), [*directory.ids.values(), UNKNOWN]
    texts = [*map(str, ids), "not an id", ""]
    assert directory.called(users_by_id([*ids, None], asked)) == set(users.split())
    assert directory.called(tenants_by_id([*ids, None], asked)) == set(tenants.split())
    assert directory.called(projects_by_id(texts, asked)) == set(projects.split())
    assert directory.called(flows_by_id(texts, asked)) == set(flows.split())


def test_only_what_is_asked_for_is_read(directory: Directory) -> None:
    ids = directory.ids
    assert set(users_by_id([ids["ann"]], Scope())) == {ids["ann"]}
    assert set(tenants_by_id([ids["acme"]], Scope())) == {ids["acme"]}
    assert set(projects_by_id([str(ids["Care"])], Scope())) == {str(ids["Care"])}
    assert set(flows_by_id([str(ids["Triage"])], Scope())) == {str(ids["Triage"])}


@pytest.mark.parametrize(
    ("scope", "dimension", "key", "shown"),
    [
        ({}, Dimension.USER, "gus", ("gus", "gus")),
        ({}, Dimension.USER, UNKNOWN, (UNKNOWN, str(UNKNOWN))),
        ({"tenant": "acme"}, Dimension.USER, "ann", ("ann", "ann")),
        ({"tenant": "acme"}, Dimension.USER, "gus", (None, "A user of another tenant")),
        ({"user": "ann"}, Dimension.USER, "bob", (None, "A user of another tenant")),
        ({}, Dimension.TENANT, "globex", ("globex", "Globex")),
        ({"tenant": "acme"}, Dimension.TENANT, "globex", (None, "Another tenant")),
        ({"tenant": "acme"}, Dimension.PROJECT, "Care", ("Care", "Care")),
        ({"tenant": "acme"}, Dimension.PROJECT, "Sales", ("Sales", "the id")),
        ({"tenant": "acme"}, Dimension.FLOW, "Triage", ("Triage", "Triage")),
        ({"tenant": "acme"}, Dimension.FLOW, "Leads", ("Leads", "the id")),
        ({"tenant": "acme"}, Dimension.FLOW, "", ("", Dimension.FLOW.declared.nothing)),
        ({}, Dimension.MODEL, "gpt-4o", ("gpt-4o", "gpt-4o")),
        ({"tenant": "acme"}, Dimension.MODEL, "gpt-4o", ("gpt-4o", "gpt-4o")),
        ({}, Dimension.MODEL, "Care", ("Care", "the id")),
    ],
)
def test_what_a_scope_may_not_name_has_no_name_and_nobodys_id(
    directory: Directory,
    scope: dict[str, str],
    dimension: Dimension,
    key: Any,
    shown: tuple[Any, str],
) -> None:
    def id_of(name: Any) -> Any:
        found = directory.ids.get(name, name)
        is_text = dimension in (Dimension.FLOW, Dimension.PROJECT, Dimension.MODEL)
        return str(found) if is_text else found

    name = names_of(dimension, [id_of(key)], directory.scope(**scope))[id_of(key)]
    label = id_of(key) if shown[1] == "the id" else shown[1]
    assert (name.key, name.label) == (None if shown[0] is None else id_of(shown[0]), label)


@pytest.mark.parametrize(("tenant", "user"), [("acme", "ann"), ("acme", ""), ("", "ann"), ("", "")])
def test_a_run_and_its_steps_have_the_same_owner(
    people: People, use: Callable[..., None], tenant: str, user: str
) -> None:
    """A run without a tenant is nobody's."""
    use(people.acme_user, "1")
    Trace.objects.update(
        tenant=people.acme if tenant else None, user=people.acme_user if user else None
    )
    paths = [path.removeprefix("trace__") for path in OWNER_PATHS]
    found = owner_in(Trace.objects.values_list(*paths).get())
    named_tenant = Name(people.acme.pk, "Acme") if tenant else NO_NAME
    named_user = Name(people.acme_user.pk, "ann") if user else NO_NAME
    assert found == ((named_tenant, named_user) if tenant else (NO_NAME, NO_NAME))
    assert owner_of(Trace.objects.get()) == (named_tenant, named_user)


@pytest.mark.parametrize(
    ("viewer", "person", "shown"),
    [
        ("platform_admin", "globex_user", "gus"),
        ("acme_admin", "acme_user", "ann"),
        ("acme_admin", "globex_user", ""),
        ("acme_user", "acme_user", "ann"),
        ("acme_user", "acme_colleague", ""),
        ("acme_user", "platform_admin", ""),
        ("platform_admin", None, ""),
    ],
)
def test_who_did_something_is_named_to_those_who_may_see_it(
    people: People, viewer: str, person: str | None, shown: str
) -> None:
    user = getattr(people, person) if person else None
    assert name_of_person(user, getattr(people, viewer)) == shown
