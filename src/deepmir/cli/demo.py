"""``deepmir demo``."""

EXAMPLES = ""


def run() -> None:
    """Demo."""
