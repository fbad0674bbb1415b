"""The one error of this program."""


class TurnError(Exception):
    """Something could not be set up; the message is for a person."""
