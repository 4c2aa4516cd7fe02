"""How fast the project is, against the plain ways of doing the same and against what the machine allows.

Every figure is a ratio of times taken side by side in one run; ``python -m benchmarks`` lists the benchmarks.
"""
