"""The demo's directory: 8 tenants, 120 users, 30 projects, 90 flows and three tiers, always the
same ones.
"""

import json
import random
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 20231116
NAMESPACE = uuid.UUID("6b1f3a52-8a0f-4a55-9d0a-6a1c2f1d7e10")
VALID_FROM = "2020-01-01T00:00:00Z"

TIERS = [
    ("Starter", "100", "1.00", "1000", "1000"),
    ("Professional", "200", "0.95", "10000", "10000"),
    ("Enterprise", "500", "0.90", "100000", "100000"),
]


@dataclass(frozen=True, slots=True)
class DemoTenant:
    name: str
    slug: str
    timezone: str
    tier: str
    users: int
    projects: int
    flows: int


TENANTS = [
    DemoTenant("Northwind Logistics", "northwind", "Europe/Amsterdam", "Enterprise", 28, 6, 18),
    DemoTenant("Aurora Health", "aurora", "America/New_York", "Enterprise", 22, 5, 15),
    DemoTenant("Kestrel Bank", "kestrel", "Europe/London", "Enterprise", 20, 5, 15),
    DemoTenant("Saffron Retail", "saffron", "Asia/Kolkata", "Professional", 16, 4, 12),
    DemoTenant("Juniper Energy", "juniper", "America/Los_Angeles", "Professional", 12, 3, 10),
    DemoTenant("Harbor Insurance", "harbor", "America/Chicago", "Professional", 10, 3, 8),
    DemoTenant("Lumen Studio", "lumen", "Europe/Berlin", "Starter", 7, 2, 7),
    DemoTenant("Pebble Labs", "pebble", "UTC", "Starter", 5, 2, 5),
]
PROJECTS = ["Customer care", "Sales", "Operations", "Engineering", "Compliance", "Research"]
FLOWS = [
    "Support triage",
    "Contract review",
    "Code assistant",
    "Release notes",
    "Knowledge search",
    "Claims intake",
    "Meeting notes",
    "Product copy",
    "Lead scoring",
    "Invoice matching",
    "Incident summary",
    "Policy check",
    "Onboarding guide",
    "Test writer",
    "Translation desk",
    "Market brief",
    "Risk memo",
    "Field report",
]
FIRST_NAMES = [
    "ada",
    "ben",
    "chloe",
    "dario",
    "elif",
    "farid",
    "grace",
    "hugo",
    "ines",
    "jonas",
    "kavya",
    "liam",
    "mira",
    "noah",
    "olga",
    "priya",
    "quinn",
    "rosa",
    "sven",
    "tara",
    "umar",
    "vera",
    "wei",
    "xenia",
    "yusuf",
    "zoe",
]


def demo_directory() -> dict[str, Any]:
    """The directory document (docs/directory.md).

    The first user of a tenant is its admin; platform-admin is the platform's.
    """
    chance = random.Random(SEED)
    document: dict[str, Any] = {
        "tiers": [_tier(*tier) for tier in TIERS],
        "tenants": [],
        "projects": [],
        "flows": [],
        "users": [],
    }
    for tenant in TENANTS:
        document["tenants"].append(
            {
                "id": _id("tenant", tenant.slug),
                "name": tenant.name,
                "slug": tenant.slug,
                "timezone": tenant.timezone,
                "default_tier": tenant.tier,
            }
        )
        projects = [
            {"id": _id("project", tenant.slug, name), "name": name, "tenant": tenant.slug}
            for name in PROJECTS[: tenant.projects]
        ]
        document["projects"] += projects
        for number, name in enumerate(chance.sample(FLOWS, tenant.flows)):
            project = projects[number % len(projects)]
            document["flows"].append(
                {"id": _id("flow", tenant.slug, name), "name": name, "project": project["id"]}
            )
        document["users"] += [
            _user(tenant, number, name)
            for number, name in enumerate(chance.sample(FIRST_NAMES * 2, tenant.users))
        ]
    document["users"][-1] |= {
        "username": "platform-admin",
        "email": "admin@kluisz.example",
        "is_superuser": True,
    }
    return document


def write_demo_directory(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(demo_directory(), indent=1))


def _tier(
    name: str, credits_per_usd: str, multiplier: str, default_credits: str, monthly: str
) -> dict[str, Any]:
    return {
        "name": name,
        "credits_per_usd": credits_per_usd,
        "pricing_multiplier": multiplier,
        "default_credits": default_credits,
        "default_credits_per_month": monthly,
        "valid_from": VALID_FROM,
    }


def _user(tenant: DemoTenant, number: int, name: str) -> dict[str, Any]:
    username = f"{tenant.slug}-admin" if number == 0 else f"{name}.{tenant.slug}{number}"
    return {
        "id": _id("user", tenant.slug, str(number)),
        "username": username,
        "email": f"{username}@{tenant.slug}.example",
        "tenant": tenant.slug,
        "tier": tenant.tier,
        "tier_valid_from": VALID_FROM,
        "is_tenant_admin": number == 0,
    }


def _id(*parts: str) -> str:
    return str(uuid.uuid5(NAMESPACE, "/".join(parts)))
