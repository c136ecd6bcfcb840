"""How the course reaches people: Colab, a browser, forks, the website, and the checks that keep all four working."""


class DeliveryError(Exception):
    """Something that a learner would meet is broken, or a check cannot run here; the text says what to do."""
