"""Comparisons with the public implementations, and converters from and to them; needs diffusers or transformers.

`parity` measures the largest differences or, where those packages are absent, reads the recorded ones.
`python -m lesson_lib.official` measures all of them again and records them.
"""
