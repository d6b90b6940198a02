"""Policy documents: each format reads a document into a `schemas.policy.Policy` and writes one. Pure."""
