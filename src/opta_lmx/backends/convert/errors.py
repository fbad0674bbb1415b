"""Why a file cannot be converted."""


class ConvertError(Exception):
    """The conversion is refused. `code` is for machines, the message for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def unsupported(what: str) -> ConvertError:
    """Build the commonest refusal: the file is sound, but not of a kind we convert."""
    return ConvertError("unsupported_model", f"{what} is not supported by the MLX converter")
