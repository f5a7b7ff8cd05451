"""Attribution rules ready for what others' tracers send (docs/sources.md). Data."""

from collections.abc import Mapping
from typing import NamedTuple


class Preset(NamedTuple):
    """Rules for a source, each as the fields of an AttributionRule."""

    label: str
    rules: tuple[Mapping[str, str], ...]


def _from(gives: str, source: str, path: str = "", **fields: str) -> Mapping[str, str]:
    return {"gives": gives, "source": source, "path": path, **fields}


TENANT, USER = "id,slug,alias", "id,email,name,alias"
LITELLM = "attributes.metadata."
OF_OTHERS = _from("tenant", "metadata", "tenant_id", finds_by=TENANT, wins="root")
"""As whoever calls a gateway may name the tenant."""
PRESETS: Mapping[str, Preset] = {
    "our_tracer": Preset(
        "Our tracer",
        (
            _from("tenant", "metadata", "tenant_id", finds_by="id,alias", wins="root"),
            _from("user", "user_id", finds_by="id,alias", wins="root"),
            _from("project", "metadata", "kluisz_project_id", finds_by="id", wins="root"),
            _from("flow", "metadata", "kluisz_flow_id", finds_by="id", wins="root"),
        ),
    ),
    "litellm": Preset(
        "LiteLLM proxy",
        (
            *(
                _from("tenant", "metadata", f"{LITELLM}{key}", finds_by=TENANT)
                for key in (
                    "user_api_key_team_id",
                    "user_api_key_team_alias",
                    "user_api_key_org_id",
                    "user_api_key_org_alias",
                    "requester_metadata.tenant",
                    "user_api_key_alias",
                )
            ),
            _from("tenant", "tag", pattern="(?:team|tenant):(?P<tenant>.+)", finds_by=TENANT),
            OF_OTHERS,
            # The user that the request names is told before the owner of the key.
            *(
                _from("user", "metadata", f"{LITELLM}{key}", finds_by=USER)
                for key in (
                    "user_api_key_end_user_id",
                    "requester_metadata.trace_user_id",
                    "user_api_key_user_email",
                    "user_api_key_user_id",
                )
            ),
            _from("user", "user_id", finds_by=USER, wins="root"),
            _from("project", "metadata", f"{LITELLM}user_api_key_project_id", finds_by="id,name"),
        ),
    ),
    "langfuse_gateway": Preset(
        "Langfuse AI Gateway",
        (
            _from("tenant", "metadata", "team", finds_by=TENANT),
            _from("tenant", "metadata", "cost_center", finds_by=TENANT),
            OF_OTHERS,
            _from("user", "user_id", finds_by=USER, wins="root"),
        ),
    ),
    "dify": Preset(
        "Dify",
        (
            _from("tenant", "metadata", "tenant_id", finds_by=TENANT, wins="root"),
            _from("user", "user_id", finds_by=USER, wins="root"),
            _from("user", "metadata", "user_id", finds_by=USER, wins="root"),
            _from("flow", "metadata", "app_id", finds_by="id,name", wins="root"),
            _from("flow", "metadata", "workflow_id", finds_by="id,name", wins="root"),
        ),
    ),
    "open_webui": Preset(
        "Open WebUI",
        (
            OF_OTHERS,
            _from("user", "user_id", finds_by="email,id,name,alias", wins="root"),
            _from("user", "metadata", "user_id", finds_by=USER, wins="root"),
            _from("flow", "metadata", "model_id", finds_by="id,name", wins="root"),
        ),
    ),
    "openrouter": Preset(
        "OpenRouter",
        (
            *(
                _from("tenant", source, path, finds_by=TENANT, wins="root")
                for source, path in (
                    ("metadata", "tenant"),
                    ("metadata", "team"),
                    ("metadata", "tenant_id"),
                    ("metadata", "attributes.trace.metadata.tenant"),
                    ("metadata", "attributes.trace.metadata.team"),
                    ("metadata", "attributes.trace.metadata.openrouter.api_key_name"),
                )
            ),
            _from("user", "user_id", finds_by=USER, wins="root"),
        ),
    ),
    "openllmetry": Preset(
        "OpenLLMetry",
        (
            *(
                _from("tenant", "metadata", path, finds_by=TENANT, wins="root")
                for path in (
                    "attributes.traceloop.association.properties.tenant_id",
                    "attributes.traceloop.association.properties.organization_id",
                    "attributes.tenant.id",
                    "resourceAttributes.tenant.id",
                    "tenant_id",
                )
            ),
            *(
                _from("user", "metadata", path, finds_by=USER, wins="root")
                for path in (
                    "attributes.traceloop.association.properties.user_id",
                    "attributes.user.id",
                    "attributes.enduser.id",
                )
            ),
            _from("user", "user_id", finds_by=USER, wins="root"),
            _from("flow", "metadata", "attributes.traceloop.workflow.name", finds_by="name,id"),
        ),
    ),
    "openinference": Preset(
        "OpenInference",
        (
            *(
                _from("tenant", "metadata", path, finds_by=TENANT, wins="root")
                for path in (
                    "attributes.metadata.tenant_id",
                    "attributes.metadata.tenant",
                    "attributes.tenant.id",
                    "resourceAttributes.tenant.id",
                    "tenant_id",
                )
            ),
            _from("user", "metadata", "attributes.user.id", finds_by=USER, wins="root"),
            _from("user", "user_id", finds_by=USER, wins="root"),
            _from("flow", "metadata", "attributes.agent.name", finds_by="name,id", wins="root"),
        ),
    ),
}
