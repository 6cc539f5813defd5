"""A stream that claims to be a terminal, for tests of what users see while a command runs."""

import io


class Terminal(io.StringIO):
    """A text in memory that claims to be a terminal."""

    def isatty(self) -> bool:
        """True: progress bars are drawn."""
        return True
