"""Everything as it runs: programs as processes, real brokers, players and browsers."""
