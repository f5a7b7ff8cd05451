"""Accounts, grants, the ledger, and the gate before a run (domain.md, Credits).

For a flow engine in the same process::

    import credits

    with credits.reserve(user, trace_id, flow_id):
        ...  # run the flow
"""

from typing import Any

_PUBLIC = (
    "check",
    "reserve",
    "reserve_credits",
    "InsufficientCredits",
    "NoActiveLicense",
    "BudgetExhausted",
)


def __getattr__(name: str) -> Any:
    """The gate, imported when it is first used: models can't be imported before Django's apps are
    ready.
    """
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from credits import enforcement, gate  # noqa: PLC0415

    return getattr(gate if hasattr(gate, name) else enforcement, name)
