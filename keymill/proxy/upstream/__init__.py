"""What turns entitled keys into a license: one file per kind of license server."""
