"""One command that starts a whole cluster on one machine, and the demos that run on it."""
