"""
A license server for tests, run as a process: `python -m tests.license_server --port 0`, what it knows on stdin.

It does what the real ones do as far as a proxy can see: it checks who asks, decrypts the keys that it was sent, obeys
the policy, and answers a license that nobody could have made without them. On request it misbehaves.
"""
