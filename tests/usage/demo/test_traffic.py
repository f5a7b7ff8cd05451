"""The real traffic is all there, and always assigned alike."""

from collections import Counter
from datetime import UTC, datetime, timedelta

from usage.demo.directory import demo_directory
from usage.demo.traffic import demo_runs, read_requests

END = datetime(2026, 11, 24, 2, 30, tzinfo=UTC)


def test_all_28185_real_requests_are_there() -> None:
    requests = read_requests()
    assert Counter(request.service for request in requests) == {"conv": 19_366, "code": 8_819}
    assert sum(request.input_tokens for request in requests) == 40_421_844
    assert sum(request.output_tokens for request in requests) == 4_334_561
    assert (requests[0].place, requests[-1].place) == (0, 1)


def test_the_rule_is_seeded_and_keeps_the_order_of_arrival() -> None:
    requests = read_requests()
    runs = list(demo_runs(requests, demo_directory(), END))
    assert runs == list(demo_runs(requests, demo_directory(), END))
    assert len({run.run_id for run in runs}) == len(runs) == 28_185
    starts = [run.start_time for run in runs]
    assert starts == sorted(starts)
    assert starts[0] >= END.replace(hour=0, minute=0) - timedelta(days=29)
    assert starts[-1] <= END
    assert len({start.date() for start in starts}) == 30


def test_the_directory_has_8_tenants_120_users_30_projects_and_90_flows() -> None:
    directory = demo_directory()
    assert {name: len(rows) for name, rows in directory.items()} == {
        "tiers": 3,
        "tenants": 8,
        "projects": 30,
        "flows": 90,
        "users": 120,
    }
    assert directory == demo_directory()


def test_each_run_belongs_to_a_user_and_a_flow_of_its_tenant() -> None:
    directory = demo_directory()
    slugs = {tenant["id"]: tenant["slug"] for tenant in directory["tenants"]}
    users = {user["id"]: user["tenant"] for user in directory["users"]}
    projects = {project["id"]: project["tenant"] for project in directory["projects"]}
    for run in demo_runs(read_requests()[:500], directory, END):
        assert users[run.user_id] == projects[run.project_id] == slugs[run.tenant_id]
