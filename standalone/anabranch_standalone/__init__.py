"""One command that starts a whole cluster on one machine, and the demos that run on it."""

import os

# Children are started from processes that have gRPC channels open. gRPC's fork handlers run in the
# child before its exec and can abort it there ("epoll_wait error: Bad file descriptor"); nobody
# uses a channel on the far side of a fork here, so they are left out. Read when grpc is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
