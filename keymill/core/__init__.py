"""Decisions about keys and policies: values in, values out."""
