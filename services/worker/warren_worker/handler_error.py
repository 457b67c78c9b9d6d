"""The mistake of naming a handler that cannot be used."""


class HandlerError(Exception):
    """A handler cannot be used; the message names it and says why."""
