"""The builder: lessons/NN_topic.py and the library become the notebooks that learners open.

`python -m lesson_lib.build --help` lists its commands. Read in this order: sources (a lesson's cells), expand (a
lesson becomes a
notebook), execute (a notebook gets its outputs), stale (is a committed notebook the lesson's?), fork (the
repository's address).
"""

from lesson_lib.build.sources import BuildError

__all__ = ["BuildError"]
