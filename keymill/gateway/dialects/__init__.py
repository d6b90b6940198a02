"""The spellings in which packagers ask for keys, a module each."""
