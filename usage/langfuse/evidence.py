"""What a step says, beyond our tracer's keys, that could name whose it is: metadata, session, tags,
release and version (domain.md, Attribution rules). Pure.

Kept are short texts by dotted path, also of what is JSON in a text. Payload (prompts, messages,
usage, parameters) and bookkeeping are left out, and what is kept is bounded: so that a stored step
hardly grows.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

MOST_TEXTS = 40
MOST_CHARACTERS = 4_000
LONGEST_PATH = 120
LONGEST_TEXT = 200
DEEPEST = 5
# Of what isn't metadata; no tracer's key begins so.
SESSION, TAGS, RELEASE, VERSION, CUT = "@session", "@tags", "@release", "@version", "@cut"
"""``@cut``: which metadata came cut off inside of JSON, so that more may be there than is known."""
OWN_KEYS = ("tenant_id", "kluisz_project_id", "kluisz_flow_id")
"""Our tracer's; they are kept as what a step says of its trace."""
BOOKKEEPING = (
    "scope.",
    "resourceAttributes.telemetry.",
    "resourceAttributes.process.",
    "resourceAttributes.host.",
    "resourceAttributes.os.",
    "resourceAttributes.container.",
    "resourceAttributes.service.instance.",
    "attributes.gen_ai.client.",
    "attributes.gen_ai.openai.",
    "attributes.gen_ai.operation.",
    "attributes.gen_ai.provider.",
    "attributes.gen_ai.request.",
    "attributes.gen_ai.response.",
    "attributes.http.",
    "attributes.langfuse.",
    "attributes.llm.anthropic.",
    "attributes.llm.is_streaming",
    "attributes.llm.model_name",
    "attributes.llm.openai.",
    "attributes.llm.provider",
    "attributes.llm.request.",
    "attributes.llm.response.",
    "attributes.llm.system",
    "attributes.logfire.",
    "attributes.openinference.",
    "attributes.server.",
    "attributes.session.id",
    "attributes.url.",
    "langgraph_",
    "checkpoint_ns",
    "ls_",
    "lc_versions",
)
PAYLOAD = frozenset(
    "aggregated_usage applied_guardrails cached_tokens_details choices completion completions"
    " completion_tokens_details content cost cost_details documents embedding embeddings"
    " extra_body final_result finish_reason finish_reasons input input_messages inputs"
    " invocation_parameters json_schema message messages model_parameters output output_messages"
    " model_request_parameters outputs parameters prompt prompt_tokens_details prompts"
    " request_parameters tool tool_calls token_count tools usage usage_object".split()
)
UNNAMED_SERVICE = "unknown_service"
"""What OpenTelemetry calls a service that nobody named."""
NAMING = (
    *("tenant", "team", "org", "customer", "account", "workspace", "company", "client"),
    *("user", "owner", "email", "member", "person", "key_alias", "api_key"),
    *("project", "app", "flow", "agent", "cost_center", "department", "group", "session"),
)
"""Words of paths that are kept before others, where there is more than is kept."""


def evidence_of(
    metadata: Any, session: Any = None, tags: Any = None, release: Any = None, version: Any = None
) -> dict[str, str]:
    """The texts by their paths, sorted. What is not of its kind is as good as absent."""
    found: dict[str, str] = {}
    cut: list[str] = []
    for key, value in metadata.items() if isinstance(metadata, Mapping) else ():
        if key not in OWN_KEYS:
            _look_into(key, value, found, cut, 0)
    given = {SESSION: session, RELEASE: release, VERSION: version}
    kept = {name: _plain(text) for name, text in given.items() if text and isinstance(text, str)}
    listed = tags if isinstance(tags, list) else ()
    named = [tag for tag in listed if isinstance(tag, str) and tag]
    if named:
        kept[TAGS] = json.dumps(named[:MOST_TEXTS], ensure_ascii=False)[:MOST_CHARACTERS]
    if cut:
        kept[CUT] = json.dumps(sorted(cut))
    return dict(sorted((kept | _bounded(found)).items()))


def tags_of(evidence: Mapping[str, str]) -> list[str]:
    """The tags, as they were given."""
    text = evidence.get(TAGS)
    if not text:
        return []
    # Of more than are kept the last may be cut off.
    values, _ = _whole_values(text)
    return [value for _, value in values]


def _look_into(path: str, value: Any, found: dict[str, str], cut: list[str], depth: int) -> None:
    """Keep what there is under the path, as texts."""
    if not _may_name(path):
        return
    if isinstance(value, str):
        members, is_whole = _members(value) if depth < DEEPEST else (None, True)
        if not is_whole:
            cut.append(path)
        if members is None:
            text = _plain(value)
            if text and not text.startswith(UNNAMED_SERVICE):
                found[path] = text
            return
    elif isinstance(value, Mapping) and depth < DEEPEST:
        members = value.items()
    elif text := _text_of(value):
        found[path] = text
        return
    else:
        return
    for key, inner in members:
        _look_into(f"{path}.{key}", inner, found, cut, depth + 1)


def _members(text: str) -> tuple[Iterable[tuple[str, Any]] | None, bool]:
    """The members of a JSON object in a text, as far as they are whole, and whether it is; None of
    what is no such text.
    """
    text = text.strip()
    if text[:1] != "{":
        return None, True
    values, is_whole = _whole_values(text)
    begins_so = text[1:].lstrip()[:1] in ("", '"')
    return (values, is_whole) if values or is_whole or begins_so else (None, True)


def _text_of(value: Any) -> str:
    """A number, a truth or a list of texts, as text; "" of anything else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        # JavaScript writes 0.0 as 0.
        is_whole = isinstance(value, float) and value.is_integer()
        return str(int(value) if is_whole else value)
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return _plain(json.dumps(value, ensure_ascii=False))
    return ""


@lru_cache(maxsize=16_384)
def _may_name(path: str) -> bool:
    """Whether it is neither payload nor bookkeeping."""
    if len(path) > LONGEST_PATH or path.startswith(BOOKKEEPING):
        return False
    return PAYLOAD.isdisjoint(path.split("."))


def _plain(text: str) -> str:
    """The text without the quotes of JSON, where a tracer wrote it so, and not too long."""
    if text[:1] == '"':
        try:
            text = json.loads(text)
        except ValueError:
            text = text.strip('"')
    # PostgreSQL stores no NUL in a text.
    return text.replace("\x00", "").strip()[:LONGEST_TEXT]


def _whole_values(text: str) -> tuple[list[tuple[Any, Any]], bool]:
    """The members of a JSON object that are whole in its text, or the values of a list (with the
    key None), and whether all are: Langfuse cuts long texts off. Of a last member that is an object
    itself, the text is given, to be looked into.
    """
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return list(_read(text)), False
    if isinstance(whole, dict):
        return list(whole.items()), True
    return [(None, value) for value in whole] if isinstance(whole, list) else [], True


_decoder = json.JSONDecoder(strict=False)


def _read(text: str) -> Iterator[tuple[Any, Any]]:
    is_object, at = text[:1] == "{", _after_space(text, 1)
    while at < len(text):
        key = None
        try:
            if is_object:
                key, at = _decoder.raw_decode(text, at)
                at = _after_space(text, at)
                if not isinstance(key, str) or text[at : at + 1] != ":":
                    return
                at = _after_space(text, at + 1)
            value, end = _decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            if key is not None and text[at : at + 1] == "{":
                yield key, text[at:]
            return
        at = _after_space(text, end)
        # A number that the text ends with may have gone on.
        if text[at : at + 1] not in (",", "}", "]") or at >= len(text):
            return
        yield key, value
        at = _after_space(text, at + 1)


def _after_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _bounded(found: dict[str, str]) -> dict[str, str]:
    """At most so many, those first whose path speaks of somebody."""
    if len(found) <= MOST_TEXTS and sum(map(len, found.values())) <= MOST_CHARACTERS:
        return found
    kept: dict[str, str] = {}
    length = 0
    for path in sorted(found, key=lambda path: (not _speaks_of_somebody(path), path)):
        length += len(found[path])
        if len(kept) == MOST_TEXTS or length > MOST_CHARACTERS:
            break
        kept[path] = found[path]
    return kept


def _speaks_of_somebody(path: str) -> bool:
    lower = path.lower()
    return any(word in lower for word in NAMING)
