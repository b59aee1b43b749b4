"""The ports of the services: narrow protocols, each with a real and a simulated adapter."""
