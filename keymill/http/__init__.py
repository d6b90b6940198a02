"""What gateway, proxy and the processor's health port share: server, problem documents, health, request ids."""
