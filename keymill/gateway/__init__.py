"""The control plane's HTTP: asset intake, packager key delivery. It says events and reads a view; it makes no keys."""
