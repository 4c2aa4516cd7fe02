"""Measure the speed of the project, compared with plain implementations and with the limits of the machine.

All times of a comparison are measured in turn in the same call. ``python -m benchmarks --help`` lists the benchmarks.
"""
