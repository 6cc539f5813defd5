"""A stream that claims to be a terminal, for tests of what users see while a command runs."""

import io


class Terminal(io.StringIO):
    """Text in memory, shown as to a person."""

    def isatty(self) -> bool:
        """True: progress bars are drawn."""
        return True
