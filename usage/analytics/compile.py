"""Plans as SQL: one statement for all the questions of a page. Nothing is run in here.

Every statement's rows begin with which question they are of (its place in the list), which bucket,
and which value of its dimension, as text.
"""

from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

from django.db import connection

from kluisz_analytics.sql import Sql, all_of, any_of, listed, ranges_table, stored, union
from kluisz_analytics.tenants.attributed import Ownership
from kluisz_analytics.tenants.models import Flow, Project, Tenant, User
from usage.analytics.plan import Plan, whole
from usage.analytics.question import LAST_ACTIVITY, NAME, Question, Status
from usage.analytics.segments import Segment, Segments
from usage.measures import DIMENSIONS, SUM_NAMES, Dimension
from usage.periods import Granularity, end_of
from usage.rollups.rows import MODEL, OF_FACTS, OF_TRACES, model_rows, trace_rows
from usage.rollups.rules import RollupRule
from usage.rollups.sketches import bucket_sql

FEW_SEGMENTS = 24
HISTOGRAM = f"{bucket_sql('s.latency_ms')} AS bucket, COUNT(*) AS traces"
"""How many traces took how long."""
LATENCIES = "bucket || ',' || traces"
MEMBER = "CASE WHEN s.is_owned THEN s.user_key END"
DETAILS = {
    "traces": "bigint",
    "member": "bigint",
    "users": "bytea",
    "latencies": "bytea",
    "listed": "text",
    "moment": "timestamptz",
}
"""Columns of the details' rows, each of which has only some, and their types on PostgreSQL."""

# --- The statements ------------------------------------------------------------------------------


def leaders(plans: Mapping[int, Plan]) -> Sql | None:
    """The first values of the questions with a limit; with each the cost of all values, and how
    many there are, where that is wanted.
    """
    return _together(_leaders, plans, lambda plan: plan.finds_leaders_first)


def sums(plans: Mapping[int, Plan]) -> Sql | None:
    """The sums, in the order of SUM_NAMES; what is left out is that of which nothing is there.

    Behind them the cost of all values and how many there are, where there is a limit; and latencies
    and the latest run, where these are read with them: from the facts.
    """
    return _together(lambda plan: _fact_sums(plan) if plan.source is None else _sums(plan), plans)


def details(plans: Mapping[int, Plan]) -> Sql | None:
    """What does not add up, as parts that are put together after they are fetched (DETAILS)."""
    return _together(_details, plans, lambda plan: plan.question.wants_details)


def _together(
    compiled: Callable[[Plan], Sql | None],
    plans: Mapping[int, Plan],
    which: Callable[[Plan], bool] = lambda plan: True,
) -> Sql | None:
    """The rows of the plans, each with the plan's place before it."""
    parts = []
    for place, plan in plans.items():
        if which(plan) and (part := compiled(plan)) is not None:
            text = f"SELECT {place} AS question, q{place}.* FROM ({part.text}) q{place}"
            parts.append(Sql(text, part.parameters))
    return union(parts)


# --- Sums ----------------------------------------------------------------------------------------


def _leaders(plan: Plan) -> Sql | None:
    question = plan.question
    names = dict.fromkeys(["total_traces"])
    if question.order_by in SUM_NAMES:
        names[str(question.order_by)] = None
    if question.wants_totals:
        names["total_cost_usd"] = None
    is_by_activity = question.order_by == LAST_ACTIVITY
    rows = (_amounts_with_activity if is_by_activity else _amounts)(plan, list(names))
    if rows is None:
        return None
    called = _called(question)
    number, groups = "number", "number, dimension"
    if question.by_difference:
        number, groups = "MIN(number)", "dimension"
    return Sql(
        f"SELECT {number} AS number, {_key(question)} AS key, {_totals(question)}"
        f" FROM ({rows.text}) s {called.text}"
        f" GROUP BY {groups} HAVING SUM(total_traces) <> 0 {_first(question)}",
        [*rows.parameters, *called.parameters],
    )


def _sums(plan: Plan) -> Sql | None:
    rows = _amounts(plan, SUM_NAMES)
    if rows is None:
        return None
    return Sql(
        f"SELECT number, {_key(plan.question)} AS key, {_summed()}, 0 AS total, 0 AS keys,"
        f" {_nothing('text')} AS listed, {_nothing('timestamptz')} AS moment"
        f" FROM ({rows.text}) s GROUP BY number, dimension HAVING SUM(total_traces) <> 0",
        rows.parameters,
    )


def _fact_sums(plan: Plan) -> Sql | None:
    """Sums, latencies and the latest run in one reading of the facts."""
    question = plan.question
    by_latency = ", ".join(f"SUM(s.{name}) AS {name}" for name in SUM_NAMES)
    rows = _fact_rows(
        question,
        plan.segments.facts,
        f"{HISTOGRAM}, {_activity(question, 'MAX(s.moment)')} AS moment, {by_latency}",
        group="GROUP BY 1, 2, 3",
    )
    if rows is None:
        return None
    called = _called(question)
    return Sql(
        f"SELECT number, {_key(question)} AS key, {_summed()}, {_totals(question)},"
        f" {listed(LATENCIES)} AS listed, MAX(moment) AS moment"
        f" FROM ({rows.text}) s {called.text} GROUP BY number, dimension {_first(question)}",
        [*rows.parameters, *called.parameters],
    )


def _amounts(plan: Plan, names: Sequence[str]) -> Sql | None:
    """These sums of all segments, with their signs."""
    parts = []
    for sign, segments in (("", plan.added), ("-", plan.taken)):
        built, facts = (
            ", ".join(f"{sign}{table}.{name} AS {name}" for name in names) for table in ("r", "s")
        )
        parts += [
            _built_rows(plan, segments.built, built),
            _fact_rows(plan.question, segments.facts, facts),
        ]
    return union(parts)


def _amounts_with_activity(plan: Plan, names: Sequence[str]) -> Sql | None:
    """The same with the moment of the latest run, of which nothing can be taken away."""
    built, facts = (", ".join(f"{table}.{name}" for name in names) for table in ("r", "s"))
    # Users' stats don't keep it for their parts of an hour; the facts do.
    keeps_it = plan.source is not None and plan.source.is_built
    segments = plan.segments if keeps_it else whole(plan.question)
    return union(
        [
            _built_rows(plan, segments.built, f"{built}, r.last_activity AS moment"),
            _fact_rows(plan.question, segments.facts, f"{facts}, s.moment"),
        ]
    )


def _summed() -> str:
    return ", ".join(f"CAST(SUM({name}) AS bigint) AS {name}" for name in SUM_NAMES)


def _totals(question: Question) -> str:
    """The cost of all values, and how many there are; known without where there is no limit."""
    if question.limit is None or not question.wants_totals:
        return "0 AS total, 0 AS keys"
    return "CAST(SUM(SUM(total_cost_usd)) OVER () AS bigint) AS total, COUNT(*) OVER () AS keys"


def _first(question: Question) -> str:
    """The question's order and limit. Between equals the value decides, in the order of its
    bytes.
    """
    if question.limit is None or question.by is None:
        return ""
    direction = "ASC" if question.ascending else "DESC"
    return (
        f"ORDER BY {_ordered_by(question)} {direction}, {_bytewise(question.by)}"
        f" LIMIT {question.limit}"
    )


def _ordered_by(question: Question) -> str:
    if question.order_by == LAST_ACTIVITY:
        return "MAX(moment)"
    if question.by_difference:
        amount = question.order_by
        return f"ABS(SUM(CASE WHEN number = 0 THEN {amount} ELSE -{amount} END))"
    if question.order_by != NAME:
        return f"SUM({question.order_by})"
    text = "CAST(dimension AS text)"
    return f"LOWER(COALESCE(MIN(n.name), {text}))" if question.by in NAMES else f"LOWER({text})"


def _bytewise(by: Dimension) -> str:
    is_text = by.declared.key is str and connection.vendor == "postgresql"
    return 'dimension COLLATE "C"' if is_text else "dimension"


NAMES = {
    Dimension.TENANT: (Tenant, "name", ""),
    Dimension.USER: (User, "username", "tenant_id"),
    Dimension.PROJECT: (Project, "name", "tenant_id"),
    Dimension.FLOW: (Flow, "name", ""),
}
"""Where the names of a dimension's values are, and the column of whose they are."""


def _called(question: Question) -> Sql:
    """The names of the values as n, where a list is ordered by them: of another tenant's users and
    projects none, within a tenant's scope.
    """
    if question.order_by != NAME or question.by not in NAMES:
        return Sql("")
    model, column, owner = NAMES[question.by]
    key = "id" if question.by.declared.key is UUID else _as_text("id")
    tenant_id = question.scope.tenant_id
    where, parameters = (
        (f"WHERE {owner} = %s", [stored(tenant_id)]) if owner and tenant_id else ("", [])
    )
    names = f'SELECT {key} AS value, {column} AS name FROM "{model._meta.db_table}" {where}'
    return Sql(f"LEFT JOIN ({names}) n ON n.value = dimension", parameters)


def _as_text(column: str) -> str:
    """A UUID as Python writes it, which SQLite keeps without its hyphens."""
    if connection.vendor == "postgresql":
        return f"CAST({column} AS text)"
    cuts = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
    return " || '-' || ".join(f"SUBSTR({column}, {start}, {length})" for start, length in cuts)


# --- What does not add up ------------------------------------------------------------------------


def _details(plan: Plan) -> Sql | None:
    if plan.source is None:
        return _users_of_facts(plan, plan.segments.facts)
    if not plan.source.is_built:
        # Users' stats have no sketches; but a user's facts are few, and have an index.
        facts = whole(plan.question).facts
        return union(
            [_latencies_of_facts(plan, facts, "", with_activity=True), _users_of_facts(plan, facts)]
        )
    return union(
        [
            _sets_of_users(plan),
            _members(plan),
            *(
                part
                for sign, segments in (("", plan.added), ("-", plan.taken))
                for part in (
                    _histograms(plan, segments, sign),
                    _latencies_of_facts(plan, segments.facts, sign),
                )
            ),
        ]
    )


def knows_users(question: Question) -> bool:
    """Whether each answer is one user's, so that there is nobody to count."""
    return question.by is Dimension.USER or question.scope.user_id is not None


def _users_of_facts(plan: Plan, facts: Sequence[Segment]) -> Sql | None:
    """The number of distinct users."""
    if knows_users(plan.question):
        return None
    counted = f"COUNT(DISTINCT {MEMBER}) AS traces"
    return _detail(
        plan.question,
        _fact_rows(plan.question, facts, counted, group="GROUP BY 1, 2"),
        {"traces": "traces"},
    )


def _sets_of_users(plan: Plan) -> Sql | None:
    """Sets of user numbers, of which distinct ones can't be taken away."""
    activity = _activity(plan.question, "r.last_activity")
    return _detail(
        plan.question,
        _built_rows(plan, plan.segments.built, f"r.users, {activity} AS moment"),
        {"users": "users", "moment": "moment"},
    )


def _members(plan: Plan) -> Sql | None:
    """User numbers that are no one's set: a row for each. Where there are no sets to tell them
    from, there is no need to know which users they are.
    """
    question, (built, facts) = plan.question, plan.segments
    number, join = (
        ("n.id", "LEFT JOIN usage_user_number n ON n.user_id = s.user_key")
        if built
        else (_nothing("bigint"), "")
    )
    selected = (
        f"{number} AS member, COUNT(DISTINCT {MEMBER}) AS traces,"
        f" {_activity(question, 'MAX(s.moment)')} AS moment"
    )
    return _detail(
        question,
        _fact_rows(question, facts, selected, join=join, group="GROUP BY 1, 2, 3"),
        {"traces": "traces", "member": "member", "moment": "moment"},
    )


def _histograms(plan: Plan, segments: Segments, sign: str) -> Sql | None:
    """Packed latencies, with their sign as the number of traces."""
    return _detail(
        plan.question,
        _built_rows(plan, segments.built, f"{sign}1 AS traces, r.latencies"),
        {"traces": "traces", "latencies": "latencies"},
    )


def _latencies_of_facts(
    plan: Plan, facts: Sequence[Segment], sign: str, *, with_activity: bool = False
) -> Sql | None:
    """Latencies as listed pairs of bucket and number of traces."""
    question = plan.question
    moment = _activity(question, "MAX(s.moment)") if with_activity else _nothing("timestamptz")
    histogram = HISTOGRAM.replace("COUNT", f"{sign}COUNT")
    rows = _fact_rows(question, facts, f"{histogram}, {moment} AS moment", group="GROUP BY 1, 2, 3")
    if rows is None:
        return None
    one_row = Sql(
        f"SELECT number, dimension, {listed(LATENCIES)} AS listed, MAX(moment) AS moment"
        f" FROM ({rows.text}) h GROUP BY 1, 2",
        rows.parameters,
    )
    return _detail(question, one_row, {"listed": "listed", "moment": "moment"})


def _detail(question: Question, rows: Sql | None, has: Mapping[str, str]) -> Sql | None:
    """The rows with all columns of DETAILS, of which they have some."""
    if rows is None:
        return None
    columns = ", ".join(
        f"{has[name] if name in has else _nothing(kind)} AS {name}"
        for name, kind in DETAILS.items()
    )
    return Sql(
        f"SELECT number, {_key(question)} AS key, {columns} FROM ({rows.text}) d", rows.parameters
    )


def _activity(question: Question, column: str) -> str:
    """When something last ran is asked of lists; reading a time for every hour of a series would
    take longer than all else.
    """
    return column if question.is_of_a_list else _nothing("timestamptz")


def _nothing(kind: str) -> str:
    """NULL of a type of PostgreSQL's."""
    return f"CAST(NULL AS {kind})" if connection.vendor == "postgresql" else "NULL"


def _key(question: Question) -> str:
    """The value of the dimension, as text whatever its type: questions are answered together."""
    return "CAST(dimension AS text)" if question.by else _nothing("text")


# --- Rows of a rollup, and of the facts ----------------------------------------------------------


def _built_rows(plan: Plan, segments: Sequence[Segment], selected: str) -> Sql | None:
    """Rows of the rollup as (number, dimension, whatever is selected of r)."""
    if not segments or plan.source is None:
        return None
    by, rule = plan.question.by, plan.source
    columns = f"{f'r.{rule.dimensions[by]}' if by else 'NULL'} AS dimension, {selected}"
    conditions = _built_conditions(plan.question, rule)
    if len(segments) <= FEW_SEGMENTS:
        # Told each stretch as such, PostgreSQL knows how much it is; of a join it would have to
        # guess.
        return union([_stretch(one, rule.table, columns, conditions) for one in segments])
    alike = [
        [one for one in segments if one.granularity is granularity] for granularity in Granularity
    ]
    return union([_joined(some, rule.table, columns, conditions) for some in alike if some])


def _stretch(segment: Segment, table: str, columns: str, conditions: Sql) -> Sql:
    """The rollup's rows of one stretch."""
    when = Sql("r.period_start >= %s AND r.period_start < %s", [segment.start, segment.end])
    if _is_one_period(segment):
        when = Sql("r.period_start = %s", [segment.start])
    where = f"r.granularity = '{segment.granularity}' AND {when.text}{conditions.text}"
    return Sql(
        f"SELECT {segment.bucket} AS number, {columns} FROM {table} r WHERE {where}",
        [*map(stored, when.parameters), *conditions.parameters],
    )


def _joined(segments: Sequence[Segment], table: str, columns: str, conditions: Sql) -> Sql:
    """Rows of many stretches of one granularity."""
    ranges = ranges_table([(one.bucket, one.start, one.end) for one in segments])
    when = "r.period_start >= b.range_start AND r.period_start < b.range_end"
    if all(map(_is_one_period, segments)):
        when = "r.period_start = b.range_start"
    where = f"r.granularity = '{segments[0].granularity}' AND {when}{conditions.text}"
    rows = f"{ranges.text} JOIN {table} r ON {where}"
    if connection.vendor == "postgresql":
        # Made to look each stretch up by itself; it would rather read all of a tenant's hours for a
        # few of them.
        rows = (
            f"{ranges.text} CROSS JOIN LATERAL (SELECT * FROM {table} r WHERE {where} OFFSET 0) r"
        )
    return Sql(
        f"SELECT b.number, {columns} FROM {rows}", [*ranges.parameters, *conditions.parameters]
    )


def _is_one_period(segment: Segment) -> bool:
    """Told by its start alone; by a range of starts, whatever is finer and lies in it would be
    looked at, too.
    """
    return (
        segment.granularity is not None
        and end_of(segment.granularity, segment.start) == segment.end
    )


def _fact_rows(
    question: Question,
    segments: Sequence[Segment],
    selected: str,
    *,
    join: str = "",
    group: str = "",
) -> Sql | None:
    """Rows of the facts as (number, dimension, whatever is selected of s)."""
    if not segments:
        return None
    ranges = [(one.bucket, one.start, one.end) for one in segments]
    conditions = _fact_conditions(question)
    if Dimension.MODEL in question.dimensions:
        of_models = all_of(_conditions(question, {Dimension.MODEL: MODEL}))
        rows = model_rows(ranges, conditions, of_models, together=question.counts_traces_together)
    else:
        rows = trace_rows(ranges, conditions)
    key = f"s.{question.by.declared.row}" if question.by else "NULL"
    return Sql(
        f"SELECT s.number, {key} AS dimension, {selected} FROM ({rows.text}) s {join} {group}",
        rows.parameters,
    )


def _conditions(question: Question, columns: Mapping[Dimension, str]) -> list[Sql]:
    """The scope and the filters on these columns; the scope comes first and always."""
    scope, found = question.scope, []
    for dimension, value in ((Dimension.TENANT, scope.tenant_id), (Dimension.USER, scope.user_id)):
        if value and dimension in columns:
            found.append(any_of(columns[dimension], [stored(value)]))
    for dimension, column in columns.items():
        if values := question.filters.of(dimension):
            found.append(any_of(column, [*map(stored, values)]))
    if question.only_named and question.by is not None and question.by in columns:
        found.append(Sql(f"{columns[question.by]} <> ''"))
    return found


def _built_conditions(question: Question, rule: RollupRule) -> Sql:
    columns = {dimension: f"r.{column}" for dimension, column in rule.dimensions.items()}
    missing = question.dimensions - columns.keys()
    if missing:
        raise LookupError(f"{rule.table} can't tell apart {', '.join(sorted(missing))}.")
    conditions = _conditions(question, columns)
    if rule.is_unattributed is not None and rule.ownership is Ownership.ANY:
        if question.ownership is Ownership.UNATTRIBUTED:
            conditions.append(Sql(rule.is_unattributed))
        elif question.ownership is not Ownership.ANY:
            conditions.append(Sql(f"NOT ({rule.is_unattributed})"))
    return all_of(conditions)


FACT_COLUMNS = {one: f"t.{DIMENSIONS[one].trace}" for one in OF_TRACES}


def _fact_conditions(question: Question) -> Sql:
    conditions = _conditions(question, FACT_COLUMNS)
    if condition := OF_FACTS[question.ownership]:
        conditions.append(Sql(condition))
    if len(set(question.filters.statuses)) == 1:
        is_failed = question.filters.statuses[0] is Status.FAILED
        conditions.append(Sql("t.is_failed" if is_failed else "NOT t.is_failed"))
    return all_of(conditions)
