"""The error that a channel raises."""


class Undeliverable(Exception):
    """The delivery can't be made however often it is tried. The message says the way out."""
