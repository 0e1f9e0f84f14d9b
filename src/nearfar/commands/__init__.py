"""One module a command of the command line; a function's signature is its flags, its docstring its help."""
