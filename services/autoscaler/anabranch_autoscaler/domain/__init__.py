"""When to split and when to merge: pure rules, no input or output, no clock."""
