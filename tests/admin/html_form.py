"""A form of a page, read from its HTML as a browser reads it."""

from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class Control:
    """An input, a select or a textarea."""

    tag: str
    kind: str
    name: str
    classes: set[str]
    value: str | None = ""
    options: list[tuple[str, bool]] = field(default_factory=list)

    @property
    def is_visible(self) -> bool:
        return self.kind not in ("hidden", "submit", "button") and "hidden" not in self.classes

    @property
    def sent(self) -> list[str]:
        """What a browser would send of it, with nothing changed."""
        if self.tag != "select":
            return [] if self.value is None else [self.value]
        chosen = [value for value, is_chosen in self.options if is_chosen]
        return chosen or [value for value, _ in self.options[:1] if self.kind != "multiple"]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.controls: list[Control] = []
        self._open: Control | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if tag == "option" and self._open is not None:
            self._open.options.append((said.get("value") or "", "selected" in said))
        if tag not in ("input", "select", "textarea"):
            return
        kind = said.get("type") or "text"
        if tag == "select":
            kind = "multiple" if "multiple" in said else "select"
        classes = set((said.get("class") or "").split())
        control = Control(tag, kind, said.get("name") or "", classes, said.get("value") or "")
        if kind in ("checkbox", "radio"):
            control.value = (said.get("value") or "on") if "checked" in said else None
        self.controls.append(control)
        self._open = None if tag == "input" else control

    def handle_endtag(self, tag: str) -> None:
        if self._open is not None and tag == self._open.tag:
            self._open = None

    def handle_data(self, data: str) -> None:
        if self._open is not None and self._open.tag == "textarea":
            self._open.value = f"{self._open.value}{data}".removeprefix("\n")


def controls_of(page: str) -> list[Control]:
    """All controls of a page that have a name."""
    reader = _Reader()
    reader.feed(page)
    return [one for one in reader.controls if one.name]


def filled(page: str) -> dict[str, list[str]]:
    """What sending the page's form would send, with nothing changed."""
    sent: dict[str, list[str]] = {}
    for one in controls_of(page):
        if one.kind not in ("submit", "button", "file") and one.sent:
            sent.setdefault(one.name, []).extend(one.sent)
    return sent
