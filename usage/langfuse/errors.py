"""What can go wrong with a Langfuse server, in words that say the way out."""


class LangfuseError(Exception):
    """Langfuse could not be read. The message names the host and the way out, never a key."""


class WrongKey(LangfuseError):
    """The server refused the keys."""


class UnreadableKey(LangfuseError):
    """The stored secret key can't be decrypted."""


class Unreachable(LangfuseError):
    """There is no answer from the host, or none for so long that it makes no sense to go on."""


class NotLangfuse(LangfuseError):
    """Something answers at the host, but it isn't a Langfuse that we can read."""


class ServerTrouble(LangfuseError):
    """Langfuse answered with an error of its own, again and again."""


class TooMuchAtOnce(ServerTrouble):
    """Langfuse's store ran out of time or memory over one request: ask for less at once."""


class RequestRefused(LangfuseError):
    """Langfuse did not accept the request."""


class NotFound(NotLangfuse):
    """The host has no such address."""


class BudgetSpent(ServerTrouble):
    """No more requests are allowed for so long that waiting makes no sense, however little each
    asks for.
    """
