"""One module per DRM system: what its players, packagers and license servers are told. Pure."""
