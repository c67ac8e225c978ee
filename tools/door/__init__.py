"""The parts of course.py: standard library only, and in every student's copy."""
