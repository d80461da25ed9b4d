"""The built-in compute modules: one file each, its parameters and its module."""
