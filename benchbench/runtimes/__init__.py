"""Runtimes: a network as a file that an inference library runs, and what each library can do."""
