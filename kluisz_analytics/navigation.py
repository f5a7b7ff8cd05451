"""Which item of the admin's sidebar a page is under."""

from collections.abc import Iterable


def nearest(path: str, links: Iterable[str]) -> str:
    """The longest of the links that the path begins with; the admin's index ("/admin/") only where
    the path is that. "" for none.
    """
    fit = (one for one in links if path == one or (path.startswith(one) and one.count("/") > 2))
    return max(fit, key=len, default="")
