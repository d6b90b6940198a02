"""How many examples a property is given: a multiple of what the profile gives (tests/conftest.py), never a number."""

from hypothesis import settings


def examples(times: int) -> settings:
    """Settings for a property or machine that needs so many times the examples of others to see every fault."""
    profile = settings()
    return settings(profile, max_examples=times * profile.max_examples)
