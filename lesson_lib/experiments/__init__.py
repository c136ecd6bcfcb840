"""The measurements that the lessons quote, one file each: python -m lesson_lib.experiments NAME."""
