"""The ways to ask for a license: one file each, none knows another."""
