"""The main job: a night of taxi rides that splits and merges a stream."""
