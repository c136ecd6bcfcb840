"""Measure every comparison with the public implementations again and record it: python -m lesson_lib.official."""

from lesson_lib.official.parity import record

if __name__ == "__main__":
    record()
