"""What may go wrong with a run itself."""

from famulus.errors import OperatingError


class TortureError(OperatingError):
    """The run could not be brought to its end."""
