"""The server: two protocols, one client."""
