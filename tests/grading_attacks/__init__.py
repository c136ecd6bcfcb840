"""Hostile and damaged hand-ins for lesson 07: the grader must give each what it deserves, and outlive all of them."""

from grading_attacks.accidents import ACCIDENTS
from grading_attacks.attacks import ATTACKS
from grading_attacks.files import FILES
from grading_attacks.machine import MACHINE
from grading_attacks.notebooks import Entry

ENTRIES: tuple[Entry, ...] = (*ATTACKS, *MACHINE, *FILES, *ACCIDENTS)
