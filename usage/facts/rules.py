"""Attribution rules: whose a run is that other tracers than ours recorded, by what its steps say
(domain.md, Attribution rules). Pure.

Each rule gives one thing: the tenant, the user, the project or the flow. It says where its text is
and how the directory finds somebody by it. Of the rules for a thing, in their order, the first that
finds somebody counts; after all of them what our tracer's keys say, as without rules. Where all of
that finds nobody, the first rule that gives a text and enters whom nobody knows: it means those who
were entered so (*seen in usage*), and nobody until all that it names are.
"""

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple, TypeVar
from uuid import UUID

from kluisz_analytics.identifiers import canonical_id
from usage.facts.owner import (
    Directory,
    Dispute,
    KnownUser,
    Owner,
    Settlement,
    as_called,
    one_called,
    owner_found,
)
from usage.facts.patterns import bounded_pattern, found_by
from usage.langfuse.evidence import CUT, RELEASE, SESSION, TAGS, tags_of
from usage.langfuse.wire import ReceivedObservation, TraceAttributes


class Gives(StrEnum):
    """What a rule is about."""

    TENANT = "tenant"
    USER = "user"
    PROJECT = "project"
    FLOW = "flow"


class Source(StrEnum):
    """Where a rule's text is."""

    METADATA = "metadata"
    ROOT_METADATA = "root_metadata"
    TAG = "tag"
    NAME = "name"
    USER_ID = "user_id"
    SESSION_ID = "session_id"
    ENVIRONMENT = "environment"
    RELEASE = "release"
    CONSTANT = "constant"


class FindsBy(StrEnum):
    """What the directory finds somebody by."""

    ID = "id"
    SLUG = "slug"
    NAME = "name"
    EMAIL = "email"
    ALIAS = "alias"


class Wins(StrEnum):
    """Who counts where the steps of a run name several."""

    NOBODY = ""
    ROOT = "root"
    FIRST = "first"
    MOST = "most"


FINDS: Mapping[str, tuple[FindsBy, ...]] = {
    Gives.TENANT: (FindsBy.ID, FindsBy.SLUG, FindsBy.NAME, FindsBy.ALIAS),
    Gives.USER: (FindsBy.ID, FindsBy.NAME, FindsBy.EMAIL, FindsBy.ALIAS),
    Gives.PROJECT: (FindsBy.ID, FindsBy.NAME),
    Gives.FLOW: (FindsBy.ID, FindsBy.NAME),
}
"""What each can be found by."""
ENTERED = (Gives.TENANT, Gives.USER)
"""What a rule may enter."""
MOST_REMEMBERED = 20_000
# Kept of a trace's attribution: more is of a mistake.
MOST_GIVEN = 12
OUR_TRACER = 0
"""Stands for the number of a rule where our tracer's keys gave the text."""


class Rule(NamedTuple):
    """A rule that holds for runs that begin in [since, until); None is from ever, and still.

    ``path``: of metadata; ``pattern`` has a group named as what it gives, or is "" for the whole
    text; ``table``: texts (in lower case) and what they stand for, which is then looked for in
    their stead; ``value``: the constant.
    """

    number: int
    gives: Gives
    source: Source
    path: str = ""
    pattern: str = ""
    value: str = ""
    finds_by: tuple[FindsBy, ...] = (FindsBy.ID, FindsBy.ALIAS)
    table: tuple[tuple[str, str], ...] = ()
    wins: Wins = Wins.NOBODY
    since: datetime | None = None
    until: datetime | None = None
    enters: bool = False

    def holds(self, moment: datetime) -> bool:
        is_after = self.since is None or self.since <= moment
        return is_after and (self.until is None or moment < self.until)

    def meant(self, text: str) -> str:
        """What the rule looks for, of a text as it came; "" where it is none of its texts."""
        if self.pattern:
            text = found_by(bounded_pattern(self.pattern, self.gives), self.gives, text)
        if text and self.table:
            return _table(self.table).get(as_called(text), "")
        return text


@lru_cache(maxsize=256)
def _table(table: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    return dict(table)


UsersByName = Mapping[str, Mapping[UUID, KnownUser | None]]
IdsByName = Mapping[str, Mapping[UUID, str | None]]


@dataclass(frozen=True, slots=True)
class Entries:
    """What else than by ids and aliases (``Directory``) rules find somebody by, in lower case; all
    but tenants by their tenant, too. A name of several is None's. ``seen_…``: who was entered by a
    rule, by the name that it was entered for; users by their tenant first.
    """

    tenants: Mapping[FindsBy, Mapping[str, UUID | None]] = field(default_factory=dict)
    users: Mapping[FindsBy, UsersByName] = field(default_factory=dict)
    projects: IdsByName = field(default_factory=dict)
    flows: IdsByName = field(default_factory=dict)
    seen_tenants: Mapping[str, UUID] = field(default_factory=dict)
    seen_users: Mapping[UUID, Mapping[str, KnownUser]] = field(default_factory=dict)


class Given(NamedTuple):
    """A text that a rule (or our tracer's keys: number 0) gave, and whether it found somebody; ""
    where the metadata that it is in came cut off.
    """

    gives: str
    number: int
    text: str
    is_found: bool


class Unknown(NamedTuple):
    """Whom a rule enters: the number of the rule, and the name that it gives."""

    number: int
    name: str


class Attributed(NamedTuple):
    """Whose a run is by the rules: who was found, its texts as they are shown, and what each rule
    gave. ``disputed``: whether its steps name several, of whom the rule doesn't say who wins.
    """

    attributes: TraceAttributes
    tenant_id: UUID | None
    user: KnownUser | None
    given: tuple[Given, ...] = ()
    is_disputed: bool = False

    def owner(self, moment: datetime, settlement: Settlement | None) -> Owner:
        """The owner of the run, which began at ``moment``."""
        user_id = None if self.user is None else self.user.id
        if self.is_disputed:
            return Owner(None, None, Dispute.STEPS_DISAGREE.value, self.tenant_id, user_id)
        if self.tenant_id is None and self.attributes.tenant_reference:
            return Owner(None, user_id)
        return owner_found(self.tenant_id, self.user, moment, settlement)

    @property
    def is_by_rule(self) -> bool:
        """Whether a rule found the tenant or the user."""
        return any(
            one.is_found and one.number != OUR_TRACER and one.gives in (Gives.TENANT, Gives.USER)
            for one in self.given
        )


class AttributionRules:
    """The rules that hold on a connection's runs, in their order, with what they find by."""

    def __init__(self, rules: Iterable[Rule] = (), entries: Entries | None = None) -> None:
        self.all = list(rules)
        self.entries = entries or Entries()
        self._by_number = {one.number: one for one in self.all}
        self._paths = sorted({path for one in self.all for path in _paths_of(one)})
        # Rules that were made together hold at the same times.
        self._times = list({(one.since, one.until): one for one in self.all}.values())
        self.enters = any(one.enters for one in self.all)
        self._asks_when = any(one.wins is Wins.FIRST for one in self.all)
        # Most runs of a user say the same.
        self._remembered: dict[Hashable, Attributed] = {}
        self._directory: Directory | None = None
        self._that_give = {
            gives: [one for one in self.all if one.gives is gives] for gives in Gives
        }

    def attribute(
        self,
        ordered: Sequence[ReceivedObservation],
        attributes: TraceAttributes,
        moment: datetime,
        directory: Directory,
        fixed_tenant_id: UUID | None = None,
    ) -> Attributed:
        """Whose the run is, of whose steps, in the order of their precedence, these are all;
        ``attributes``: what they say by our tracer's keys; ``moment``: when it began.
        """
        if directory is not self._directory or len(self._remembered) > MOST_REMEMBERED:
            self._directory, self._remembered = directory, {}
        told = tuple(
            (
                one.trace_attributes,
                one.step.is_root,
                *[one.step.evidence.get(path) for path in self._paths],
            )
            for one in ordered
        )
        key = told, attributes, fixed_tenant_id, *[one.holds(moment) for one in self._times]
        known = self._remembered.get(key)
        if known is None:
            known = self._attribute(ordered, attributes, moment, directory, fixed_tenant_id)
            if not self._asks_when and not (known.user and known.user.stays):
                self._remembered[key] = known
        return known

    def _attribute(
        self,
        ordered: Sequence[ReceivedObservation],
        attributes: TraceAttributes,
        moment: datetime,
        directory: Directory,
        fixed_tenant_id: UUID | None,
    ) -> Attributed:
        run, given = _Run(ordered, attributes, moment), list[Given]()
        tenant_id, rivals = fixed_tenant_id, 0
        if tenant_id is None:
            tenant_id, rivals = self._tenant_of(run, given, directory)
            if tenant_id is None:
                tenant_id, rivals = self._seen(Gives.TENANT, run, given, self.entries.seen_tenants)
        tenant_text = _first_text(given, attributes.tenant_reference)
        if rivals > 1:
            attributes = attributes._replace(tenant_reference=tenant_text)
            return Attributed(attributes, tenant_id, None, self._kept(given), is_disputed=True)
        # Of a tenant that is named and not known, users are known by their ids only.
        is_unknown = tenant_id is None and bool(tenant_text)
        of_user: list[Given] = []
        user, rivals = self._user_of(run, of_user, tenant_id, directory, is_unknown)
        if user is None and tenant_id is not None:
            seen = self.entries.seen_users.get(tenant_id, {})
            user, rivals = self._seen(Gives.USER, run, of_user, seen)
        user_text = _first_text(of_user, attributes.user_reference)
        given += of_user
        of_tenant = tenant_id
        if of_tenant is None and user is not None and not is_unknown:
            of_tenant = user.tenant_at(moment)
        named = TraceAttributes(
            tenant_text,
            user_text,
            self._named(Gives.PROJECT, run, given, of_tenant) or attributes.project_id,
            self._named(Gives.FLOW, run, given, of_tenant) or attributes.flow_id,
            attributes.environment,
            attributes.name,
        )
        return Attributed(named, tenant_id, user, self._kept(given), is_disputed=rivals > 1)

    def finds_now(
        self, given: Iterable[Given], tenant_id: UUID | None, directory: Directory
    ) -> bool:
        """Whether those texts that found nobody find somebody by now, of a run whose tenant is
        this.
        """
        texts = list(given)
        return self.finds_known(texts, tenant_id, directory) or self._finds_seen(texts, tenant_id)

    def finds_known(
        self, given: Iterable[Given], tenant_id: UUID | None, directory: Directory
    ) -> bool:
        """Whether one of them finds somebody who was not entered by a rule."""
        texts = [one for one in given if one.text and not one.is_found]
        is_unknown = tenant_id is None and any(one.gives == Gives.TENANT for one in texts)
        for one in texts:
            if one.number != OUR_TRACER and one.number not in self._by_number:
                continue
            rule = self._by_number.get(one.number)
            if one.gives == Gives.TENANT:
                found = tenant_id is None and self._tenant(rule, one.text, directory) is not None
            else:
                user = self._user(rule, one.text, tenant_id, directory, is_unknown)
                found = user is not None
            if found:
                return True
        return False

    def tenant_known_as(self, name: str, directory: Directory) -> UUID | None:
        """The tenant that one of the rules finds by the name."""
        found = (self._tenant(rule, name, directory) for rule in self._that_give[Gives.TENANT])
        return next((one for one in found if one is not None), None)

    def user_known_as(self, name: str, tenant_id: UUID, directory: Directory) -> KnownUser | None:
        """The user whom one of the rules finds by the name in the tenant."""
        found = (
            self._user(rule, name, tenant_id, directory, False)
            for rule in self._that_give[Gives.USER]
        )
        return next((one for one in found if one is not None), None)

    def _finds_seen(self, texts: Sequence[Given], tenant_id: UUID | None) -> bool:
        """Whether all are entered by now whom the first rule names that enters whom it names."""
        seen: Mapping[str, object] = self.entries.seen_tenants
        if tenant_id is not None:
            seen = self.entries.seen_users.get(tenant_id, {})
        named = self._entering(texts, Gives.TENANT if tenant_id is None else Gives.USER)
        return bool(named) and all(as_called(one.name) in seen for one in named)

    @property
    def find_by_name(self) -> bool:
        """Whether one of them finds projects or flows by their names."""
        of_things = (*self._that_give[Gives.PROJECT], *self._that_give[Gives.FLOW])
        return any(FindsBy.NAME in one.finds_by for one in of_things)

    def named(self, gives: Gives, text: str, tenant_id: UUID) -> str:
        """The id of the project or flow that the directory has by the name in the tenant, or ""."""
        names = self.entries.projects if gives is Gives.PROJECT else self.entries.flows
        return names.get(as_called(text), {}).get(tenant_id) or ""

    def names_now(self, given: Iterable[Given], tenant_id: UUID, ids: Mapping[Gives, str]) -> bool:
        """Whether a text of a project or flow names another one by now than the run has
        (``ids``).
        """
        for one in given:
            rule = self._by_number.get(one.number)
            if rule is None or rule.gives not in ids or FindsBy.NAME not in rule.finds_by:
                continue
            found = self.named(rule.gives, one.text, tenant_id)
            if found and found != ids[rule.gives]:
                return True
        return False

    def unknown(
        self, given: Iterable[Given], tenant_id: UUID | None
    ) -> tuple[list[Unknown], list[Unknown]]:
        """The tenants and the users whom the rules would enter, of a run whose tenant is this, to
        which they gave these texts. Users are only where the tenant is known or one alone is named.
        """
        texts = list(given)
        tenants = self._entering(texts, Gives.TENANT) if tenant_id is None else []
        if tenant_id is None and len(tenants) != 1:
            return tenants, []
        return tenants, self._entering(texts, Gives.USER)

    def _entering(self, texts: Iterable[Given], gives: Gives) -> list[Unknown]:
        """Whom the first of the rules names that enters whom it names, of those that gave a text or
        could have; nobody where somebody was found.
        """
        of_gives = [one for one in texts if one.gives == gives]
        if any(one.is_found for one in of_gives):
            return []
        for one in of_gives:
            rule = self._by_number.get(one.number)
            if rule is not None and rule.enters:
                named = [other for other in of_gives if other.number == one.number]
                # Of what came cut off nobody knows the text.
                is_whole = all(other.text for other in named)
                return [Unknown(one.number, other.text) for other in named] if is_whole else []
        return []

    def _seen(
        self, gives: Gives, run: "_Run", given: list[Given], seen: Mapping[str, "T"]
    ) -> tuple["T | None", int]:
        """Who was entered for what the first rule names that enters whom it names."""
        named = self._entering(given, gives)
        if not named or any(as_called(one.name) not in seen for one in named):
            return None, 0
        rule = self._by_number[named[0].number]
        texts = run.texts(rule, gives)
        found: dict[T, list[int]] = {}
        for text, places in texts.items():
            found.setdefault(seen[as_called(text)], []).extend(places)
        is_of_rule = (gives.value, rule.number)
        given[:] = [one._replace(is_found=True) if one[:2] == is_of_rule else one for one in given]
        return _winner(rule, run, found)

    def _kept(self, given: Sequence[Given]) -> tuple[Given, ...]:
        """What is told of it: nothing where no rule gave anything; whom rules enter before others
        that nobody knows.
        """
        if not any(one.number for one in given):
            return ()
        return tuple(sorted(given, key=self._told_after)[:MOST_GIVEN])

    def _told_after(self, one: Given) -> int:
        if one.is_found:
            return 0
        rule = self._by_number.get(one.number)
        return 1 if rule is not None and rule.enters else 2

    def _tenant_of(
        self, run: "_Run", given: list[Given], directory: Directory
    ) -> tuple[UUID | None, int]:
        """Whom the first rule finds that finds somebody, and how many it found of whom it doesn't
        say who wins.
        """
        for rule in (*self._of(Gives.TENANT, run), None):
            texts = run.texts(rule, Gives.TENANT)
            if not texts:
                if run.is_cut_off(rule):
                    given.append(_given(Gives.TENANT, rule, "", is_found=False))
                continue
            found: dict[UUID, list[int]] = {}
            for text, places in texts.items():
                tenant_id = self._tenant(rule, text, directory)
                given.append(_given(Gives.TENANT, rule, text, tenant_id is not None))
                if tenant_id is not None:
                    found.setdefault(tenant_id, []).extend(places)
            if found:
                return _winner(rule, run, found)
        return None, 0

    def _user_of(
        self,
        run: "_Run",
        given: list[Given],
        tenant_id: UUID | None,
        directory: Directory,
        is_unknown: bool,
    ) -> tuple[KnownUser | None, int]:
        for rule in (*self._of(Gives.USER, run), None):
            texts = run.texts(rule, Gives.USER)
            if not texts:
                if run.is_cut_off(rule):
                    given.append(_given(Gives.USER, rule, "", is_found=False))
                continue
            found: dict[KnownUser, list[int]] = {}
            for text, places in texts.items():
                user = self._user(rule, text, tenant_id, directory, is_unknown)
                given.append(_given(Gives.USER, rule, text, user is not None))
                if user is not None:
                    found.setdefault(user, []).extend(places)
            if found:
                return _winner(rule, run, found)
        return None, 0

    def _of(self, gives: Gives, run: "_Run") -> list[Rule]:
        return [one for one in self._that_give[gives] if one.holds(run.moment)]

    def _tenant(self, rule: Rule | None, text: str, directory: Directory) -> UUID | None:
        """By our tracer's keys (no rule) or by what the rule finds by."""
        if rule is None:
            return directory.tenant_called(text)
        for kind in rule.finds_by:
            if kind is FindsBy.ID:
                found = directory.tenants.get(canonical_id(text))
            elif kind is FindsBy.ALIAS:
                found = directory.tenant_names.get(as_called(text))
            else:
                found = self.entries.tenants.get(kind, {}).get(as_called(text))
            if found is not None:
                return found
        return None

    def _user(
        self,
        rule: Rule | None,
        text: str,
        tenant_id: UUID | None,
        directory: Directory,
        is_unknown: bool,
    ) -> KnownUser | None:
        if is_unknown:
            return directory.users.get(canonical_id(text))
        if rule is None:
            return directory.user_called(text, tenant_id)
        for kind in rule.finds_by:
            if kind is FindsBy.ID:
                found = directory.users.get(canonical_id(text))
            elif kind is FindsBy.ALIAS:
                found = one_called(directory.names, text, tenant_id)
            else:
                found = one_called(self.entries.users.get(kind, {}), text, tenant_id)
            if found is not None:
                return found
        return None

    def _named(self, gives: Gives, run: "_Run", given: list[Given], tenant_id: UUID | None) -> str:
        """The project or flow of the first rule that gives one: the directory's of that name in the
        tenant, else what it is called is its id.
        """
        for rule in self._of(gives, run):
            texts = run.texts(rule, gives)
            if not texts:
                continue
            text = run.winner(rule.wins, texts)
            given.append(_given(gives, rule, text, is_found=True))
            if FindsBy.NAME in rule.finds_by and tenant_id is not None:
                found = self.named(gives, text, tenant_id)
                if found:
                    return found
            return canonical_id(text)
        return ""


NO_RULES = AttributionRules()
T = TypeVar("T", bound=Hashable)


def _winner(rule: Rule | None, run: "_Run", found: Mapping[T, Sequence[int]]) -> tuple[T, int]:
    """Who counts of those whom a run's steps name, and how many they are where that is open."""
    wins = Wins.ROOT if rule is None else rule.wins
    return run.winner(wins, found), 1 if wins is not Wins.NOBODY else len(found)


class _Run:
    """The steps of a run, as rules ask them."""

    def __init__(
        self, ordered: Sequence[ReceivedObservation], attributes: TraceAttributes, moment: datetime
    ) -> None:
        self.ordered, self.attributes, self.moment = ordered, attributes, moment
        self.evidence = [one.step.evidence for one in ordered]
        self.has_cut_off = any(CUT in told for told in self.evidence)

    def texts(self, rule: Rule | None, gives: Gives) -> Mapping[str, list[int]]:
        """What the rule means by the texts that there are, and at which steps each is; of our
        tracer's keys (no rule) the text that was decided.
        """
        if rule is None:
            text = self.attributes[gives is Gives.USER]
            return {text: [0]} if text else NO_TEXTS
        raw = self._raw(rule)
        if not raw:
            return NO_TEXTS
        found: dict[str, list[int]] = {}
        for at, text in raw:
            if text and (meant := rule.meant(text)):
                found.setdefault(meant, []).append(at)
        return found

    def is_cut_off(self, rule: Rule | None) -> bool:
        """Whether what the rule reads is in metadata of which only the beginning is known."""
        if rule is None or not self.has_cut_off or rule.source not in METADATA:
            return False
        cut = (told[CUT] for told in self.evidence if CUT in told)
        return any(rule.path.startswith(f"{path}.") for text in cut for path in json.loads(text))

    def winner(self, wins: Wins, found: Mapping[T, Sequence[int]]) -> T:
        """Who of several counts; where nothing else is said, whom the steps name first: roots are
        before others.
        """
        if len(found) == 1:
            return next(iter(found))
        if wins is not Wins.MOST:
            by = self._begins if wins is Wins.FIRST else lambda at: at
            return min(found, key=lambda one: min(map(by, found[one])))
        return min(found, key=lambda one: (-len(set(found[one])), min(found[one])))

    def _begins(self, at: int) -> tuple[datetime, str]:
        step = self.ordered[at].step
        return step.start_time, step.observation_id

    def _raw(self, rule: Rule) -> list[tuple[int, str]]:
        """The texts that the rule reads, as they came, each with its step."""
        source, path = rule.source, PATHS.get(rule.source, rule.path)
        if source is Source.CONSTANT:
            return [(0, rule.value)]
        if source is Source.NAME:
            return [(0, self.attributes.name)]
        if source is Source.TAG:
            told = self.evidence
            return [(at, tag) for at in range(len(told)) for tag in tags_of(told[at])]
        field = OF_TRACE.get(source, OUR_KEYS.get(path))
        if field is not None:
            found = [(at, one.trace_attributes[field]) for at, one in enumerate(self.ordered)]
        else:
            found = [(at, told[path]) for at, told in enumerate(self.evidence) if path in told]
        if source is Source.ROOT_METADATA:
            return [(at, text) for at, text in found if self.ordered[at].step.is_root]
        return found


METADATA = (Source.METADATA, Source.ROOT_METADATA)
PATHS = {Source.SESSION_ID: SESSION, Source.RELEASE: RELEASE}
_field = TraceAttributes._fields.index
OF_TRACE = {
    Source.USER_ID: _field("user_reference"),
    Source.ENVIRONMENT: _field("environment"),
}
OUR_KEYS = {
    "tenant_id": _field("tenant_reference"),
    "kluisz_project_id": _field("project_id"),
    "kluisz_flow_id": _field("flow_id"),
}
NO_TEXTS: Mapping[str, list[int]] = {}


def _paths_of(rule: Rule) -> list[str]:
    """What of the evidence the rule reads."""
    if rule.source is Source.TAG:
        return [TAGS]
    if rule.source in METADATA:
        return [CUT, rule.path]
    return [PATHS[rule.source]] if rule.source in PATHS else []


def _given(gives: Gives, rule: Rule | None, text: str, is_found: bool) -> Given:
    return Given(gives.value, OUR_TRACER if rule is None else rule.number, text, is_found)


def _first_text(given: Iterable[Given], ours: str) -> str:
    """The text that found somebody, else the first that found nobody."""
    first = ""
    for one in given:
        if one.is_found:
            return one.text
        first = first or one.text
    return first or ours


def packed_given(given: Sequence[Given]) -> str:
    return json.dumps(given, ensure_ascii=False, separators=(",", ":")) if given else ""


def unpacked_given(text: str) -> list[Given]:
    """The contrary."""
    return [Given(*one) for one in json.loads(text)] if text else []
