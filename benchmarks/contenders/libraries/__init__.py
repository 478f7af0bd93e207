"""Other libraries beside rearec: the same task for each, in a process and a virtual environment of its own.

Runs in the interpreters of the other libraries too: what is imported at the head of a module has to be there in all of
them, which is Python's own library and NumPy. What belongs to one library is imported in its own module.
"""
