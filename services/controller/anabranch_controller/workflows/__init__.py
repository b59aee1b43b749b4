"""Work that takes several steps on several machines, and that any instance can finish.

A workflow has no state of its own: what is open is part of its aggregate's state, and an
`advance` function looks at that, does the next step, and records it as an event. Cut at any
instruction, it is taken up at the last recorded step; each step may be done twice.
"""
