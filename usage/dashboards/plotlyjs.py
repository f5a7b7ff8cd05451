"""Serves the plotly.js that the plotly package ships, so that charts and their library are always
of one version.
"""

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from django.contrib.staticfiles.finders import BaseFinder
from django.core.files.storage import FileSystemStorage

FILE_NAME = "plotly.min.js"
STATIC_NAME = f"plotly/{FILE_NAME}"


class PlotlyFinder(BaseFinder):
    """Finds ``plotly/plotly.min.js`` in the installed package."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.storage = FileSystemStorage(location=str(files("plotly") / "package_data"))
        self.storage.prefix = "plotly"  # type: ignore[attr-defined]

    def check(self, **kwargs: Any) -> list[Any]:
        return []

    def find(self, path: str, find_all: bool = False, **kwargs: Any) -> Any:
        if path != STATIC_NAME:
            return []
        found = self.storage.path(FILE_NAME)
        return [found] if find_all else found

    def list(self, ignore_patterns: Any) -> Iterator[tuple[str, FileSystemStorage]]:
        yield FILE_NAME, self.storage
