"""Seeded simulation: the real services in one thread, in virtual time, from one number.

Everything that a service takes from outside is made here (`loop`, `blocking`, `disk`, `network`,
`bus`, `registry`, `objects`): slow, late, out of order, or not at all, as the seed has it. On top
of it run the segment stores, the tierers, a small placement and clients (`cluster`, `clients`),
a nemesis that breaks things (`nemesis`), and an auditor that knows what was acknowledged
(`auditor`). `python -m anabranch_testkit.simulation --help` runs seeds; docs/simulation.md says
which fault is covered by what.

A process of the simulation is a group of tasks and blocking functions (`loop.Process`). It can be
killed at any `await` and at any system call, and stopped and continued while time goes on.
"""
