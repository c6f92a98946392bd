"""CoreML programs without Apple's runtime: what a saved package says, operator by operator, in torch on the CPU.

`operators.py` has the arithmetic, `program.py` reads a package and runs its functions.
"""
