"""The license proxy: answers players from a local copy of keys and policies."""
