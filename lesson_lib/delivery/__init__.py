"""How the course reaches people: Colab, a browser, forks, the website, and the checks that keep all four working."""


class DeliveryError(Exception):
    """Something that a learner would meet is broken, or a check cannot run here; the text says what to do."""


def tail(text: str, lines: int = 12) -> str:
    """Return the last lines of a program's complaint."""
    return "\n".join(text.strip().splitlines()[-lines:])
