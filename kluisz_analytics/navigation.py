"""The admin's sidebar, and which of its items a page is under."""

from collections.abc import Iterable, Sequence
from typing import Any

from django.http import HttpRequest
from django.urls import reverse


def item(title: str, icon: str, url_name: str) -> dict[str, Any]:
    return {"title": title, "icon": icon, "url_name": url_name}


GROUPS: Sequence[dict[str, Any]] = [
    {
        "title": "Overview",
        "items": [
            item("Platform", "dashboard", "admin:index"),
            item("Dashboards", "monitoring", "platform-dashboard"),
            item("Sources", "hub", "admin:usage_sources"),
        ],
    },
    {
        "title": "Directory",
        "items": [
            item("Tenants", "domain", "admin:tenants_tenant_changelist"),
            item("Users", "group", "admin:tenants_user_changelist"),
            item("Aliases", "badge", "admin:tenants_useralias_changelist"),
            item("Tenant aliases", "badge", "admin:tenants_tenantalias_changelist"),
            item("Memberships", "move_down", "admin:tenants_membership_changelist"),
            item("Projects", "folder", "admin:tenants_project_changelist"),
            item("Flows", "account_tree", "admin:tenants_flow_changelist"),
            item("API tokens", "key", "admin:tenants_apitoken_changelist"),
        ],
    },
    {
        "title": "Pricing",
        "items": [
            item("Tiers", "sell", "admin:pricing_pricingtier_changelist"),
            item("Tier rates", "history", "admin:pricing_tierrate_changelist"),
            item("Tier assignments", "badge", "admin:pricing_tierassignment_changelist"),
            item("Model prices", "payments", "admin:pricing_modelprice_changelist"),
            item("Model aliases", "translate", "admin:pricing_modelalias_changelist"),
            item("Unpriced usage", "help", "admin:usage_unpricedusage"),
            item("What doesn't add up", "balance", "admin:usage_doubtful"),
            item("Rulings", "gavel", "admin:usage_usageruling_changelist"),
            item("Expected but not seen", "search_off", "admin:usage_expectedusage"),
            item("Repricings", "published_with_changes", "admin:usage_repricing_changelist"),
            item("What if", "compare_arrows", "admin:usage_whatif"),
            item(
                "Shipped price lists",
                "inventory_2",
                "admin:pricing_shippedpricelist_changelist",
            ),
        ],
    },
    {
        "title": "Credits",
        "items": [
            item("Accounts", "account_balance_wallet", "admin:credits_account_changelist"),
            item("Grants", "redeem", "admin:credits_grant_changelist"),
            item("Holds", "lock_clock", "admin:credits_hold_changelist"),
            item("Budgets", "savings", "admin:credits_tenantbudget_changelist"),
            item("Alerts", "notifications", "admin:credits_alert_changelist"),
            item("Webhooks", "webhook", "admin:credits_webhook_changelist"),
            item("Deliveries", "outgoing_mail", "admin:credits_delivery_changelist"),
            item("Licenses", "card_membership", "admin:credits_license_changelist"),
            item("License pools", "workspaces", "admin:credits_licensepool_changelist"),
            item("License history", "history_edu", "admin:credits_licenseevent_changelist"),
            item("Transactions", "receipt_long", "admin:credits_transaction_changelist"),
            item("Usage charges", "schedule", "admin:credits_usagecharge_changelist"),
        ],
    },
    {
        "title": "Usage",
        "items": [
            item("Traces", "timeline", "admin:usage_trace_changelist"),
            item("Disputes", "gavel", "admin:usage_disputedtrace_changelist"),
            item("Attribution rules", "rule", "admin:usage_attributionrules_changelist"),
            item("Named and not known", "person_off", "admin:usage_unknownowners"),
            item("Seen in usage", "person_search", "admin:usage_seeninusage"),
            item("Billed observations", "data_object", "admin:usage_observation_changelist"),
            item("Voided traces", "block", "admin:usage_tracevoid_changelist"),
            item("Tenant statistics", "bar_chart", "admin:usage_tenantusagestats_changelist"),
            item("User statistics", "person_search", "admin:usage_userusagestats_changelist"),
            item("Flow rollup", "stacked_bar_chart", "admin:usage_flowusage_changelist"),
            item("Model rollup", "smart_toy", "admin:usage_modelusage_changelist"),
            item("Source rollup", "input", "admin:usage_sourceusage_changelist"),
            item("Flow estimates", "speed", "admin:usage_flowestimate_changelist"),
        ],
    },
    {
        "title": "Sync",
        "items": [
            item("Langfuse connections", "cable", "admin:usage_langfuseconnection_changelist"),
            item("Runs", "sync", "admin:usage_syncrun_changelist"),
            item("Windows", "date_range", "admin:usage_syncwindow_changelist"),
            item("Drift", "difference", "admin:usage_syncdrift_changelist"),
            item("Compared with Langfuse", "compare_arrows", "admin:usage_tenantday_changelist"),
            item("Set aside", "report", "admin:usage_rejectedobservation_changelist"),
        ],
    },
]


def sidebar(request: HttpRequest) -> list[dict[str, Any]]:
    """The groups with the links of their items, of which at most one is active."""
    links = {
        one["url_name"]: reverse(one["url_name"]) for group in GROUPS for one in group["items"]
    }
    active = nearest(request.path, links.values())
    return [
        {
            **group,
            "items": [
                {**one, "link": links[one["url_name"]], "active": links[one["url_name"]] == active}
                for one in group["items"]
            ],
        }
        for group in GROUPS
    ]


def nearest(path: str, links: Iterable[str]) -> str:
    """The longest of the links that the path begins with; the admin's index ("/admin/") only where
    the path is that. "" for none.
    """
    fit = (one for one in links if path == one or (path.startswith(one) and one.count("/") > 2))
    return max(fit, key=len, default="")
