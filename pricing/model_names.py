"""Models as those who trace write them: the provider, the model as that provider calls it, and what
else the name says (docs/pricing.md, Names). Pure.

A name is read by its form and by the tables here, never by what has a price: what isn't understood
stays as it is written. Providers are named as the ``genai-prices`` package names them, and as they
call themselves where it has none of theirs.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple
from urllib.parse import unquote

from pricing.prices import EVER, NEVER

HUGGINGFACE_ROUTES = (
    "cerebras fireworks-ai groq hyperbolic nebius novita nscale ovhcloud publicai sambanova"
    " together"
).split()
SPELLINGS = {
    "openai": "openai openai-chat openai-responses text-completion-openai",
    "azure": "azure azure_ai azure-ai azure_text azure_openai azure-openai azureopenai",
    "anthropic": "anthropic",
    "aws": "aws bedrock bedrock_converse bedrock-converse amazon-bedrock amazon_bedrock sagemaker",
    "google": (
        "google gemini google-gla google-vertex google_genai google-genai google_vertexai"
        " google_anthropic_vertex google-ai-studio google_ai_studio vertex vertexai vertex_ai"
        " vertex-ai vertex_ai_beta vertex_ai-language-models"
    ),
    "mistral": "mistral mistralai codestral text-completion-codestral",
    "cohere": "cohere cohere_chat",
    "deepseek": "deepseek",
    "x-ai": "x-ai xai",
    "groq": "groq",
    "together": "together together_ai together-ai togetherai",
    "perplexity": "perplexity perplexity-ai perplexity_ai",
    "fireworks": "fireworks fireworks_ai fireworks-ai",
    "openrouter": "openrouter",
    "cerebras": "cerebras",
    "voyageai": "voyage voyageai",
    "moonshotai": "moonshot moonshotai",
    "zai": "zai z-ai",
    "zhipuai": "zhipuai",
    "minimax": "minimax",
    "novita": "novita novita-ai",
    "baseten": "baseten",
    "databricks": "databricks",
    "cloudflare": "cloudflare workers-ai",
    "ovhcloud": "ovhcloud",
    "elevenlabs": "elevenlabs",
    "github-copilot": "github-copilot github_copilot",
    "arcee": "arcee",
    "avian": "avian",
    "cursor": "cursor",
    "doubleword": "doubleword",
    "meta": "meta meta_llama",
    "modal": "modal",
    "quicksilverpro": "quicksilverpro",
    "typesafe": "typesafe",
    **{f"huggingface_{route}": f"huggingface_{route}" for route in HUGGINGFACE_ROUTES},
    # Without a price in the package: known, so that what they serve gets no other's price.
    "alibaba": "alibaba dashscope",
    "ai21": "ai21 ai21_chat",
    "deepinfra": "deepinfra",
    "github": "github github_models",
    "huggingface": "huggingface",
    "hyperbolic": "hyperbolic",
    "lambda": "lambda_ai",
    "lmstudio": "lm_studio lmstudio lm-studio",
    "nebius": "nebius",
    "nvidia": "nvidia_nim nvidia-nim",
    "ollama": "ollama ollama_chat",
    "replicate": "replicate",
    "sambanova": "sambanova",
    "vllm": "vllm hosted_vllm",
    "watsonx": "watsonx",
}
"""The providers, each with how its name is written in front of a model's."""

PROVIDER_OF = {
    spelling: provider for provider, all_of in SPELLINGS.items() for spelling in all_of.split()
}
GATEWAYS = frozenset("litellm litellm_proxy vercel vercel_ai_gateway helicone gateway".split())
"""What stands in front of another whole name and sells nothing itself."""

FAMILIES = [
    ("azure", r"gpt-35-"),
    (
        "openai",
        r"ft:|gpt-(?!oss)|chatgpt-|o[1345](?:-|$)|text-embedding-(?:3-|ada)|whisper-1|tts-1",
    ),
    ("openai", r"dall-e-|codex-|omni-moderation|text-moderation|computer-use-"),
    (
        "google",
        r"claude-[^@]*@|gemini-|text-embedding-00|text-multilingual-embedding-|imagen-|veo-",
    ),
    ("anthropic", r"claude-"),
    ("mistral", r"(?:labs-)?(?:mi|code|dev|magi|mini)stral-|(?:mixtral|pixtral|voxtral)-"),
    ("mistral", r"open-mi[sx]tral-"),
    ("cohere", r"command-|embed-(?:english|multilingual|v\d)|rerank-|c4ai-"),
    ("deepseek", r"deepseek-(?:chat|reasoner|coder|v\d+-(?:pro|flash))$"),
    ("x-ai", r"grok-"),
    ("perplexity", r"sonar(?:-|$)|pplx-"),
    ("voyageai", r"voyage-"),
    ("moonshotai", r"moonshot-v"),
    ("alibaba", r"qwen-(?:plus|max|turbo|flash|long)"),
]
"""Whose a name without a provider is: of the one who alone sells it, or who made it."""
FAMILY_PATTERNS = [(provider, re.compile(pattern)) for provider, pattern in FAMILIES]

GEOGRAPHIES = "us|us-gov|eu|apac|jp|au|ca|in|sa|me|af|global"
REGION = re.compile(rf"(?:{GEOGRAPHIES}|[a-z]{{2}}(?:-gov)?-[a-z]+-?\d+)$")
BEDROCK_MAKERS = (
    "anthropic|amazon|meta|mistral|cohere|ai21|deepseek|openai|qwen|stability|writer|nvidia|google"
    "|moonshotai|minimax|zai|luma|twelvelabs"
)
BEDROCK = re.compile(rf"(?:({GEOGRAPHIES})\.)?((?:{BEDROCK_MAKERS})\.(\S+))$")
BEDROCK_VERSION = re.compile(r"(?<!^claude)-v\d+(?::\d+(?::\d+k)?)?$|:\d+$")
BEDROCK_ROUTES = frozenset("converse converse_like invoke async_invoke".split())
ARN = re.compile(
    r"arn:aws[a-z-]*:(?:bedrock|sagemaker):([a-z0-9-]*):\d*:"
    r"((?:foundation-model|inference-profile)/)?(\S+)$"
)
VERTEX_PATH = re.compile(
    r"(?:projects/[^/]+/locations/([^/]+)/)?publishers/[^/]+/models/(\S+)$|(?:models)/(\S+)$"
)
AZURE_ROUTES = frozenset("responses global global-standard".split())
FIREWORKS = "accounts/fireworks/models/"
FIREWORKS_PATH = re.compile(r"accounts/[^/]+/(?:models|routers|deployments)/\S+$")
OLLAMA_TAG = re.compile(r"[^/:]+:(?:latest|\d+(?:\.\d+)?[bm]\b\S*)$")
AT_VERSION = re.compile(r"@(?:(\d{8}|\d{3,4})|default|latest)$")
FINE_TUNED = re.compile(r"(ft:[^:]+)(?::(\S*))?$")
DATE = re.compile(r"-(?:20\d\d-?(?:0[1-9]|1[0-2])-?(?:0[1-9]|[12]\d|3[01])|latest)$")
MODES = frozenset("thinking beta".split())
"""Ways to ask OpenRouter for a model that cost what the model costs."""

Key = tuple[str, str, str]
"""What a name is compared by: provider, region and model, the first two "" for any."""


@dataclass(frozen=True)
class ModelName:
    """A model's name, understood as far as it can be.

    ``written``: as it stands in the trace. ``provider``: who is paid for it, "" where the name
    doesn't tell. ``model``: as the provider names it, in lower case, without what follows here.
    ``base``: as its maker names it, whoever sells it. ``region``: of a data zone or a computing
    centre. ``variant``: whose fine-tuned one it is, or in which mode it was asked.
    ``credential``: with which of a gateway's. ``says_provider``: whether the name itself does, by
    its form; else the provider is its maker or only seller.
    """

    written: str
    provider: str = ""
    model: str = ""
    base: str = ""
    region: str = ""
    variant: str = ""
    credential: str = ""
    says_provider: bool = False
    asked: tuple[str, ...] = ()
    """How the provider's price list may call it, the most exact first; nothing where a list
    without regions would have the wrong price.
    """
    nested: "ModelName | None" = None
    """What a reseller, who takes the seller's own price, sells under this name."""
    keys: dict[Key, int] = field(init=False, repr=False, compare=False)
    """What a price or an alias may call it, in this order."""

    def __post_init__(self) -> None:
        base = DATE.sub("", self.base)
        keys: list[Key] = [
            (self.provider, self.region, self.model),
            (self.provider, "", self.model),
            ("", "", self.model),
            ("", "", self.base),
            (self.provider, "", DATE.sub("", self.model)),
            ("", "", base),
        ]
        ranked = {key: rank for rank, key in reversed(list(enumerate(keys))) if key[2]}
        object.__setattr__(self, "keys", ranked)

    @property
    def key(self) -> Key:
        """What it calls where it is the name of a price: every provider's model, unless it says
        whose.
        """
        if self.says_provider:
            return self.provider, self.region, self.model
        return "", "", self.model


@lru_cache(maxsize=20_000)
def understand(written: str, provider: str = "") -> ModelName:
    """The name, read by its form; with ``provider`` of that one, whatever the name says."""
    text = unquote(written).strip()
    if "%" in text:
        text = written.strip()
    lower = text.lower()
    name = _read(lower, provider) or _by_credential(text, lower)
    if name is None:
        name = ModelName(written, "", lower, lower, asked=(lower,) if lower else ())
    return replace(name, written=written)


def _read(text: str, provider: str = "") -> ModelName | None:
    """What the form says; None where it says nothing."""
    if not text:
        return None
    if not provider:
        provider, is_said = _by_form(text)
        if not is_said:
            for separator in "/:":
                prefix, _, rest = text.removeprefix("@").partition(separator)
                if rest and prefix in GATEWAYS:
                    return _read(rest) or _of("", rest)
                if rest and prefix in PROVIDER_OF:
                    return replace(_of(PROVIDER_OF[prefix], rest), says_provider=True)
        return replace(_of(provider, text), says_provider=is_said) if provider else None
    prefix, found, rest = text.partition("/")
    if found and rest and PROVIDER_OF.get(prefix) == provider:
        text = rest
    return replace(_of(provider, text), says_provider=True)


def _by_form(text: str) -> tuple[str, bool]:
    """Whose a name without a provider in front is, and whether its form alone says so."""
    if BEDROCK.match(text) or ARN.match(text):
        return "aws", True
    if FIREWORKS_PATH.match(text):
        return "fireworks", True
    if VERTEX_PATH.match(text):
        return "google", True
    if text.startswith("@cf/"):
        return "cloudflare", True
    if OLLAMA_TAG.match(text):
        return "ollama", True
    for provider, pattern in FAMILY_PATTERNS:
        if pattern.match(text):
            return provider, "@" in text
    return "", False


def _by_credential(text: str, lower: str) -> ModelName | None:
    """``credential:model``, where what follows the first colon is understood by itself."""
    credential, found, _ = text.partition(":")
    if not found or not credential or "/" in credential:
        return None
    name = _read(lower[len(credential) + 1 :])
    return name and replace(name, credential=credential)


def _of(provider: str, text: str) -> ModelName:
    """The provider's model, which is written so."""
    reader = READERS.get(provider)
    if reader is not None:
        return reader(text)
    return ModelName(text, provider, text, text.rpartition("/")[2], asked=(text,))


def _openai(text: str) -> ModelName:
    text = text.removeprefix("responses/")
    tuned = FINE_TUNED.match(text)
    if tuned:
        model, owner = tuned.group(1), tuned.group(2) or ""
        return ModelName(text, "openai", model, model, variant=owner, asked=(text,))
    return ModelName(text, "openai", text, text, asked=(text,))


def _azure(text: str) -> ModelName:
    region, text = _region(text)
    while "/" in text and text.partition("/")[0] in AZURE_ROUTES:
        text = text.partition("/")[2]
    base = text.replace("gpt-35-", "gpt-3.5-", 1)
    asked = (text,) if region in ("", "global") else ()
    return ModelName(text, "azure", text, base, "" if region == "global" else region, asked=asked)


def _region(text: str) -> tuple[str, str]:
    """A region as the first part of a path, and what follows."""
    first, found, rest = text.partition("/")
    return (first, rest) if found and rest and REGION.match(first) else ("", text)


def _bedrock(text: str) -> ModelName:
    region, text = _region(text)
    while "/" in text and text.partition("/")[0] in BEDROCK_ROUTES:
        text = text.partition("/")[2]
    if not region:
        region, text = _region(text)
    arn = ARN.match(text)
    if arn:
        region = region or arn.group(1)
        if not arn.group(2):
            # A profile or a model of the customer's own: its name doesn't tell which model it is.
            return ModelName(text, "aws", arn.group(3), arn.group(3), region)
        text = arn.group(3)
    found = BEDROCK.match(text)
    if not found:
        return ModelName(text, "aws", text, text, region, asked=(text,))
    geography, model, base = found.groups()
    asked = [f"{geography}.{model}"] if geography else []
    if geography != "global":
        asked.append(model)
    base = _claude(BEDROCK_VERSION.sub("", base))
    return ModelName(text, "aws", model, base, geography or region, asked=tuple(asked))


def _google(text: str) -> ModelName:
    path = VERTEX_PATH.match(text)
    region = ""
    if path:
        region, text = path.group(1) or "", path.group(2) or path.group(3)
    dated = AT_VERSION.sub(lambda found: f"-{found[1]}" if found[1] else "", text)
    base = _claude(dated.rpartition("/")[2])
    region = "" if region == "global" else region
    return ModelName(text, "google", dated, base, region, asked=(dated,))


def _anthropic(text: str) -> ModelName:
    model = AT_VERSION.sub(lambda found: f"-{found[1]}" if found[1] else "", text)
    return ModelName(text, "anthropic", model, _claude(model), asked=(model,))


def _claude(text: str) -> str:
    """Anthropic writes its versions with a hyphen."""
    return re.sub(r"(?<=\d)\.(?=\d)", "-", text) if text.startswith("claude-") else text


def _fireworks(text: str) -> ModelName:
    path = text if text.startswith("accounts/") else FIREWORKS + text
    model = path.removeprefix(FIREWORKS)
    return ModelName(text, "fireworks", model, model, asked=(path,))


def _openrouter(text: str) -> ModelName:
    plain, _, variant = text.partition(":")
    if variant and variant not in MODES:
        # Another price, which the model's own name doesn't have.
        return ModelName(text, "openrouter", text, text, variant=variant, asked=(text,))
    nested = _read(plain) or _of("", plain)
    asked = (text, plain) if variant else (plain,)
    return ModelName(
        text, "openrouter", plain, nested.base, variant=variant, asked=asked, nested=nested
    )


def _huggingface(text: str) -> ModelName:
    route, _, model = text.partition("/")
    if model and route in HUGGINGFACE_ROUTES:
        provider = f"huggingface_{route}"
        return ModelName(text, provider, model, model.rpartition("/")[2], asked=(model,))
    return ModelName(text, "huggingface", text, text.rpartition("/")[2], asked=(text,))


READERS = {
    "openai": _openai,
    "azure": _azure,
    "aws": _bedrock,
    "google": _google,
    "anthropic": _anthropic,
    "fireworks": _fireworks,
    "openrouter": _openrouter,
    "huggingface": _huggingface,
}
"""How the names of the providers are read whose names say more than the model."""


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that says too little by itself: a deployment, a name of one's own, a bare name of
    another provider's than its maker's.

    ``name`` is a whole name, or has one ``*`` for any text; ``model`` what it is ("" for the name
    itself; its ``*`` is that text), ``provider`` whose ("" for what ``model`` says). Of the usage
    that ``connection_id`` reads, or (None) of all; from ``valid_from`` until the next of its name,
    and from when until when it was recorded.
    """

    name: str
    model: str = ""
    provider: str = ""
    connection_id: int | None = None
    valid_from: datetime = EVER
    recorded_at: datetime = EVER
    withdrawn_at: datetime = NEVER

    def place(self, name: ModelName) -> tuple[int, ...] | None:
        """How closely it fits, the closest first; None where it doesn't."""
        is_general = int(self.connection_id is None)
        for at, text in enumerate(self._texts(name)):
            if self._between(text) is not None:
                return is_general, int("*" in self.name), at, -len(self.name)
        return None

    def meant(self, name: ModelName) -> ModelName:
        """What the name is by it, which it fits."""
        fitting = map(self._between, self._texts(name))
        text = next(found for found in fitting if found is not None)
        model = self.model.replace("*", text) or name.written
        read = understand(model, self.provider)
        if not self.provider and not read.says_provider and name.says_provider:
            # "azure/prod-chat" by an alias of "prod-chat" that names no provider is still Azure's.
            read = understand(model, name.provider)
        return replace(read, written=name.written)

    def _texts(self, name: ModelName) -> list[str]:
        """What of the name it may be for: all of it, or the model of a provider that it is for."""
        written = name.written.lower()
        if name.says_provider and self.provider not in ("", name.provider):
            return [written]
        return [written, name.model]

    def _between(self, text: str) -> str | None:
        """What its ``*`` stands for in the text; None where it doesn't fit."""
        start, star, end = self.name.lower().partition("*")
        if not star:
            return "" if text == start else None
        if len(text) < len(start) + len(end) or not text.startswith(start):
            return None
        return text[len(start) : len(text) - len(end)] if text.endswith(end) else None


class Span(NamedTuple):
    """For usage from when until when, by the lists as they were from when until when; each without
    its end.
    """

    valid_from: datetime
    valid_until: datetime
    recorded_at: datetime
    withdrawn_at: datetime

    def holds(self, moment: datetime, known_at: datetime) -> bool:
        return (
            self.valid_from <= moment < self.valid_until
            and self.recorded_at <= known_at < self.withdrawn_at
        )

    def within(self, other: "Span") -> "Span | None":
        """What they have in common; None where that is nothing."""
        valid_from = max(self.valid_from, other.valid_from)
        valid_until = min(self.valid_until, other.valid_until)
        recorded_at = max(self.recorded_at, other.recorded_at)
        withdrawn_at = min(self.withdrawn_at, other.withdrawn_at)
        if valid_from >= valid_until or recorded_at >= withdrawn_at:
            return None
        return Span(valid_from, valid_until, recorded_at, withdrawn_at)


ALWAYS = Span(EVER, NEVER, EVER, NEVER)


class Reading(NamedTuple):
    """What a name means, for a span."""

    span: Span
    name: ModelName


def readings(written: str, aliases: Iterable[Alias]) -> list[Reading]:
    """What the name means by aliases that may be for it, at all times; no two at once."""
    name = understand(written)
    placed = [(place, one) for one in aliases if (place := one.place(name)) is not None]
    placed.sort(key=lambda fit: (fit[1].valid_from, fit[1].recorded_at), reverse=True)
    placed.sort(key=lambda fit: fit[0])
    ordered = [one for _, one in placed]
    starts = sorted({EVER, NEVER, *(one.valid_from for one in ordered)})
    news = {moment for one in ordered for moment in (one.recorded_at, one.withdrawn_at)}
    return [
        Reading(Span(*valid, *known), _meant(name, ordered, valid[0], known[0]))
        for valid in pairwise(starts)
        for known in pairwise(sorted({EVER, NEVER, *news}))
    ]


def _meant(
    name: ModelName, ordered: Sequence[Alias], moment: datetime, known_at: datetime
) -> ModelName:
    """By the first that holds."""
    for one in ordered:
        if one.valid_from <= moment and one.recorded_at <= known_at < one.withdrawn_at:
            return one.meant(name)
    return name
