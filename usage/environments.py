"""Which of a project's environments are billed (docs/domain.md, Environment). Pure.

Langfuse's own evaluators and experiments run in environments that begin with ``langfuse-``: what
they use is the platform's, and no user is charged for it.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

WITHOUT_A_NAME = "default"
"""What Langfuse calls the environment of an observation that names none."""
LANGFUSES_OWN = "langfuse-"
PATTERN = re.compile(r"[a-z0-9_-]+\*?|\*")


@dataclass(frozen=True, slots=True)
class BilledEnvironments:
    """The billed ones by name, and by how their names begin; all but Langfuse's own where none is
    named.
    """

    names: frozenset[str] = frozenset()
    beginnings: tuple[str, ...] = ()

    def __contains__(self, environment: str) -> bool:
        name = environment or WITHOUT_A_NAME
        if not self.names and not self.beginnings:
            return not name.startswith(LANGFUSES_OWN)
        return name in self.names or (bool(self.beginnings) and name.startswith(self.beginnings))


@lru_cache(maxsize=256)
def billed_environments(text: str) -> BilledEnvironments:
    """The setting as people write it: names, apart by commas or spaces, with ``*`` at the end for
    all that begin so; nothing for all but ``langfuse-*``.

    Raises ValueError for what no environment can be called.
    """
    written = re.split(r"[\s,]+", text.strip(" ,\n\t\r"))
    wrong = [one for one in written if one and not PATTERN.fullmatch(one)]
    if wrong:
        raise ValueError(
            f"“{wrong[0]}” is not an environment of Langfuse's: write small letters, digits, - and"
            " _, with a * at the end for all that begin so, apart by commas; for example"
            " production, staging-*."
        )
    return BilledEnvironments(
        frozenset(one for one in written if one and not one.endswith("*")),
        tuple(one[:-1] for one in written if one.endswith("*")),
    )
